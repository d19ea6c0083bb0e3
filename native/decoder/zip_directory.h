// SPDX-License-Identifier: Apache-2.0
// The directory of a zip file, read with bounds checks before libtorch sees the file: a truncated or
// foreign file gets a sentence of ours, and the records' checksums identify the weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace chatspace {

struct ZipEntry {
  std::string name;
  uint64_t size = 0;
  uint32_t crc = 0;
  uint64_t offset = 0;  // of the local header
  bool stored = true;   // as it is, not compressed
};

// Throws Error: ERR_FILE_MISSING, ERR_ARCHIVE_FORMAT (not a zip), ERR_ARCHIVE_TRUNCATED.
std::vector<ZipEntry> read_zip_directory(const std::string& path);

// Compares the bytes of stored records with their checksums: libtorch does not, and runs damaged code and
// pickles into undefined behaviour. Throws ERR_ARCHIVE_DAMAGED, ERR_ARCHIVE_TRUNCATED.
void verify_checksums(const std::string& path, const std::vector<ZipEntry>& entries);

}  // namespace chatspace

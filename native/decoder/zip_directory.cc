// SPDX-License-Identifier: Apache-2.0
#include "decoder/zip_directory.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "errors.h"

namespace chatspace {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kDirectoryEntry = 0x02014b50;
constexpr uint32_t kDirectoryEnd = 0x06054b50;
constexpr uint32_t kDirectoryEnd64 = 0x06064b50;
constexpr uint32_t kDirectoryLocator64 = 0x07064b50;
constexpr uint32_t kLong = 0xffffffffu;  // the value stands in the zip64 field
constexpr uint64_t kMaxDirectory = uint64_t{256} << 20;

template <typename T>
T get(const std::string& bytes, size_t at) {
  if (at + sizeof(T) > bytes.size()) throw std::out_of_range("zip record");
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

std::string slice(std::ifstream& in, uint64_t offset, uint64_t size) {
  std::string bytes(size, '\0');
  in.seekg(static_cast<std::streamoff>(offset));
  in.read(bytes.data(), static_cast<std::streamsize>(size));
  if (!in) throw std::out_of_range("zip read");
  return bytes;
}

struct Directory {
  uint64_t offset;
  uint64_t size;
  uint64_t entries;
};

Directory find_directory(std::ifstream& in, uint64_t file_size) {
  const uint64_t tail_size = std::min<uint64_t>(file_size, 22 + 65535);
  const uint64_t tail_offset = file_size - tail_size;
  const std::string tail = slice(in, tail_offset, tail_size);
  for (size_t at = tail.size() - 22 + 1; at-- > 0;) {
    if (get<uint32_t>(tail, at) != kDirectoryEnd) continue;
    Directory found{get<uint32_t>(tail, at + 16), get<uint32_t>(tail, at + 12), get<uint16_t>(tail, at + 10)};
    if (at >= 20 && get<uint32_t>(tail, at - 20) == kDirectoryLocator64) {
      const std::string end64 = slice(in, get<uint64_t>(tail, at - 20 + 8), 56);
      if (get<uint32_t>(end64, 0) != kDirectoryEnd64) throw std::out_of_range("zip64 end");
      found = {get<uint64_t>(end64, 48), get<uint64_t>(end64, 40), get<uint64_t>(end64, 32)};
    }
    return found;
  }
  throw std::out_of_range("zip end record");
}

ZipEntry read_entry(const std::string& bytes, size_t& at) {
  if (get<uint32_t>(bytes, at) != kDirectoryEntry) throw std::out_of_range("zip entry");
  ZipEntry entry;
  entry.crc = get<uint32_t>(bytes, at + 16);
  entry.size = get<uint32_t>(bytes, at + 24);
  const size_t name = get<uint16_t>(bytes, at + 28);
  const size_t extra = get<uint16_t>(bytes, at + 30);
  const size_t comment = get<uint16_t>(bytes, at + 32);
  if (at + 46 + name + extra + comment > bytes.size()) throw std::out_of_range("zip entry");
  entry.name = bytes.substr(at + 46, name);
  entry.stored = get<uint16_t>(bytes, at + 10) == 0;
  entry.offset = get<uint32_t>(bytes, at + 42);
  const bool packed_short = get<uint32_t>(bytes, at + 20) == kLong;
  // The zip64 field holds, in this order, those of size, packed size and offset whose short field is all ones.
  for (size_t x = at + 46 + name; x + 4 <= at + 46 + name + extra; x += 4 + get<uint16_t>(bytes, x + 2)) {
    if (get<uint16_t>(bytes, x) != 1) continue;
    size_t field = x + 4;
    const auto next = [&] {
      field += 8;
      return get<uint64_t>(bytes, field - 8);
    };
    if (entry.size == kLong) entry.size = next();
    if (packed_short) next();
    if (entry.offset == kLong) entry.offset = next();
  }
  at += 46 + name + extra + comment;
  return entry;
}

std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0xedb88320u : 0u);
    table[i] = value;
  }
  return table;
}

uint32_t crc32(const std::string& bytes) {
  static const std::array<uint32_t, 256> table = crc_table();
  uint32_t crc = 0xffffffffu;
  for (unsigned char byte : bytes) crc = (crc >> 8) ^ table[(crc ^ byte) & 0xff];
  return ~crc;
}

bool intact(std::ifstream& in, const ZipEntry& entry) {
  const std::string header = slice(in, entry.offset, 30);
  if (get<uint32_t>(header, 0) != kLocalHeader) return false;
  const uint64_t data = entry.offset + 30 + get<uint16_t>(header, 26) + get<uint16_t>(header, 28);
  return crc32(slice(in, data, entry.size)) == entry.crc;
}

}  // namespace

void verify_checksums(const std::string& path, const std::vector<ZipEntry>& entries) {
  std::ifstream in(path, std::ios::binary);
  for (const ZipEntry& entry : entries) {
    if (!entry.stored) continue;
    bool good = false;
    try {
      good = intact(in, entry);
    } catch (const std::out_of_range&) {
      in.clear();
    }
    if (!good) {
      throw Error("ERR_ARCHIVE_DAMAGED",
                  text(path, " is damaged: the bytes of its record ", entry.name, " do not match their checksum"),
                  {{"path", path}, {"record", entry.name}});
    }
  }
}

std::vector<ZipEntry> read_zip_directory(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) {
    throw Error("ERR_FILE_MISSING", text("cannot open ", path, ": ", std::strerror(errno)), {{"path", path}});
  }
  const uint64_t file_size = static_cast<uint64_t>(in.tellg());
  const Error::Details details{{"path", path}, {"bytes", std::to_string(file_size)}};
  bool zip = false;
  try {
    zip = file_size >= 4 && get<uint32_t>(slice(in, 0, 4), 0) == kLocalHeader;
    if (!zip || file_size < 22) throw std::out_of_range("short file");
    const Directory directory = find_directory(in, file_size);
    if (directory.size > kMaxDirectory || directory.offset + directory.size > file_size) {
      throw std::out_of_range("zip directory");
    }
    const std::string bytes = slice(in, directory.offset, directory.size);
    std::vector<ZipEntry> entries;
    for (size_t at = 0; entries.size() < directory.entries;) {
      entries.push_back(read_entry(bytes, at));
      if (entries.back().size > file_size) throw std::out_of_range("zip entry size");
    }
    return entries;
  } catch (const std::out_of_range&) {
    if (!zip) {
      throw Error("ERR_ARCHIVE_FORMAT", text(path, " is not a TorchScript archive: expected a zip file written by "
                                                   "torch.jit.save"), details);
    }
    throw Error("ERR_ARCHIVE_TRUNCATED", text(path, " is damaged or cut short: its zip directory cannot be read (",
                                              file_size, " bytes)"), details);
  }
}

}  // namespace chatspace

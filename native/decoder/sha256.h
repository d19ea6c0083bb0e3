// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4) of short texts; only identities are hashed here, never weights in bulk.
#pragma once

#include <string>

namespace chatspace {

std::string sha256_hex(const std::string& bytes);

}  // namespace chatspace

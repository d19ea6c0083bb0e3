// SPDX-License-Identifier: Apache-2.0
#include "decoder/memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "decoder/device.h"

namespace chatspace {
namespace {

int64_t number_in(const char* path) {
  std::ifstream in(path);
  int64_t value = -1;
  return in >> value ? value : -1;  // "max" and a missing file both read as no limit
}

int64_t machine_available() {
  std::ifstream in("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (in >> key >> kib) {
    if (key == "MemAvailable:") return kib * 1024;
    std::getline(in, unit);
  }
  return int64_t{4} << 30;
}

}  // namespace

int64_t available_memory(c10::Device device) {
  if (!device.is_cpu()) {
    return cuda_free_bytes(device.has_index() ? device.index() : 0);
  }
  int64_t bytes = machine_available();
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max");
  const int64_t used = number_in("/sys/fs/cgroup/memory.current");
  if (limit > 0 && used >= 0) bytes = std::min(bytes, std::max<int64_t>(limit - used, 0));
  return bytes;
}

}  // namespace chatspace

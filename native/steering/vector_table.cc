// SPDX-License-Identifier: Apache-2.0
#include "steering/vector_table.h"

#include <cstring>

namespace chatspace {

VectorRef VectorTable::share(const std::vector<float>& values, double divisor) {
  at::Tensor host = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  float* out = host.mutable_data_ptr<float>();
  for (size_t k = 0; k < values.size(); ++k) {
    out[k] = divisor == 1.0 ? values[k] : static_cast<float>(values[k] / divisor);
  }
  const size_t bytes = values.size() * sizeof(float);
  Hash128 hash;
  hash.add_bytes(out, bytes);
  const auto same = [&](const SharedVector& other) {
    return other.host.nbytes() == bytes && std::memcmp(other.host.const_data_ptr<float>(), out, bytes) == 0;
  };
  if (VectorRef known = vectors_.find(hash, same)) return known;
  auto made = std::make_shared<const SharedVector>(SharedVector{host, host.to(device_), hash});
  vectors_.add(hash, made);
  return made;
}

}  // namespace chatspace

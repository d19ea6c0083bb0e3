// SPDX-License-Identifier: Apache-2.0
#include "archive/weight_arena.h"

#include <algorithm>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace chatspace {

#if defined(__linux__)

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// Address space; what is not written takes no memory.
constexpr size_t kChunk = size_t{64} << 20;
// A matrix smaller than this is read in no time that counts, and a small model should stay small.
constexpr size_t kLeast = size_t{256} << 10;

size_t rounded(size_t size, size_t unit) { return (size + unit - 1) / unit * unit; }

}  // namespace

class WeightArena::Chunk {
 public:
  explicit Chunk(size_t size) : mapped_(size + kHugePage) {
    void* memory = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    base_ = static_cast<char*>(memory);
    const auto address = reinterpret_cast<uintptr_t>(memory);
    data_ = base_ + (rounded(address, kHugePage) - address);
    size_ = size;
    ::madvise(data_, size_, MADV_HUGEPAGE);  // refused: ordinary pages
  }
  ~Chunk() {
    if (base_ != nullptr) ::munmap(base_, mapped_);
  }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  size_t mapped_;
  char* base_ = nullptr;
  char* data_ = nullptr;
  size_t size_ = 0;
};

bool WeightArena::holds(const void* data) const {
  const auto* at = static_cast<const char*>(data);
  return std::any_of(chunks_.begin(), chunks_.end(), [&](const auto& chunk) {
    return at >= chunk->data() && at < chunk->data() + chunk->size();
  });
}

at::Tensor WeightArena::empty(at::IntArrayRef shape, at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype);
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(shape)) * c10::elementSize(dtype);
  if (bytes < kLeast) return at::empty(shape, options);
  if (chunks_.empty() || used_ + bytes > chunks_.back()->size()) {
    auto chunk = std::make_shared<Chunk>(std::max(kChunk, rounded(bytes, kHugePage)));
    if (chunk->data() == nullptr) return at::empty(shape, options);
    chunks_.push_back(std::move(chunk));
    used_ = 0;
  }
  char* at = chunks_.back()->data() + used_;
  used_ += rounded(bytes, 64);
  return at::from_blob(at, shape, [chunk = chunks_.back()](void*) {}, options);
}

at::Tensor WeightArena::place(const at::Tensor& weight) {
  if (!weight.device().is_cpu() || weight.nbytes() < kLeast || holds(weight.const_data_ptr())) return weight;
  return empty(weight.sizes(), weight.scalar_type()).copy_(weight);
}

#else

class WeightArena::Chunk {};
bool WeightArena::holds(const void*) const { return false; }
at::Tensor WeightArena::empty(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::TensorOptions().dtype(dtype));
}
at::Tensor WeightArena::place(const at::Tensor& weight) { return weight; }

#endif

}  // namespace chatspace

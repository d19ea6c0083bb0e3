// SPDX-License-Identifier: Apache-2.0
// Floats that grow with a request and leave it whole. Not a std::vector, for what that costs at capture
// speed: resize() writes zeros that the kernel overwrites at once, and growth copies what is there.
// realloc moves the pages of a large block instead, and pages that were never written are never taken.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>

namespace chatspace {

class RowBuffer {
 public:
  RowBuffer() = default;
  RowBuffer(RowBuffer&& other) noexcept { swap(other); }
  RowBuffer& operator=(RowBuffer&& other) noexcept {
    RowBuffer moved(std::move(other));
    swap(moved);
    return *this;
  }
  RowBuffer(const RowBuffer&) = delete;
  RowBuffer& operator=(const RowBuffer&) = delete;
  ~RowBuffer() { std::free(data_); }

  float* data() { return data_; }
  const float* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // Room for `count` floats in all, so that growing to there moves nothing.
  void reserve(size_t count) {
    if (count <= capacity_) return;
    void* moved = std::realloc(data_, count * sizeof(float));
    if (moved == nullptr) throw std::bad_alloc();
    data_ = static_cast<float*>(moved);
    capacity_ = count;
  }

  // `count` floats more, not initialised; returns the first.
  float* extend(size_t count) {
    const size_t before = size_;
    if (before + count > capacity_) reserve(before + count > 2 * capacity_ ? before + count : 2 * capacity_);
    size_ = before + count;
    return data_ + before;
  }

  // As many floats as given, what was there before is lost.
  float* reset(size_t count) {
    size_ = 0;
    return extend(count);
  }

  // Gives back what was reserved and not used.
  void trim() {
    if (size_ == capacity_ || size_ == 0) return;
    if (void* moved = std::realloc(data_, size_ * sizeof(float))) {
      data_ = static_cast<float*>(moved);
      capacity_ = size_;
    }
  }

 private:
  void swap(RowBuffer& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }
  float* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace chatspace

// SPDX-License-Identifier: Apache-2.0
// How the steering tables of all sites lie in one block of memory whose address never changes:
//
//   SlotEntry [slots]   what each site has to do, and whether the step passed it
//   SteerCounter [n]    zero when they go up; one for each operation of the step
//   rows, entries, ops, captures, readings of each site with work, one after the other
//
// Everything is found by offsets from the block's start, so the same recorded kernels serve any program. The
// first two parts are read back after the step. Plain C++: native/tests runs it on a CPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cuda/args.h"

namespace chatspace::cuda {

struct SlotEntry {
  int32_t active;   // rows listed; 0 = the site is idle
  int32_t visited;  // set by the site's kernel
  int64_t rows;     // offsets in bytes
  int64_t entries;
  int64_t ops;      // SteerOp::counter indexes the counters from `counters` on
  int64_t captures;
  int64_t readings;
  int64_t counters;
};

// One site of a recorded step.
struct SlotArgs {
  uint8_t* tables;
  int64_t slot;
  int64_t rows;  // of the recorded step, padding included: blocks launched
  int64_t hidden;
  Array delta;     // [rows, hidden]
  Array residual;  // data nullptr = none
  bool to_residual;
  float* scratch;  // [rows, steer_floats(hidden)] when a row does not fit shared memory, else nullptr
};

// SteerNormArgs of a recorded step.
struct SlotNormArgs {
  SlotArgs slot;
  NormArgs norm;
};

class SiteTableBlock {
 public:
  SiteTableBlock(int64_t slots, int64_t capacity) : slots_(slots), capacity_(capacity) {}

  // Lays out a step. False, with the last layout kept, when it needs more than the capacity.
  bool fill(const std::vector<SiteWork>& work) {
    int64_t counters = 0;
    int64_t size = slots_ * static_cast<int64_t>(sizeof(SlotEntry));
    for (const SiteWork& site : work) counters += site.call.op_count;
    const int64_t first_counter = size = aligned(size);
    size += counters * static_cast<int64_t>(sizeof(SteerCounter));
    const int64_t head = size;
    for (const SiteWork& site : work) {
      const SteerCall& call = site.call;
      size = after(size, sizeof(SteerRow), call.active);
      size = after(size, sizeof(SteerEntry), call.entry_count);
      size = after(size, sizeof(SteerOp), call.op_count);
      size = after(size, sizeof(float*), call.capture_count);
      size = after(size, sizeof(SteerReading), call.reading_count);
    }
    if (size > capacity_) return false;

    bytes_.assign(static_cast<size_t>(size), 0);
    hosts_.clear();
    slots_used_.clear();
    read_back_ = head;
    first_counter_ = first_counter;
    int64_t at = head;
    for (const SiteWork& site : work) {
      const SteerCall& call = site.call;
      SlotEntry entry{};
      entry.active = static_cast<int32_t>(call.active);
      entry.counters = first_counter + static_cast<int64_t>(hosts_.size() * sizeof(SteerCounter));
      entry.rows = put(at, call.active_rows, call.active);
      entry.entries = put(at, call.entries, call.entry_count);
      entry.ops = put(at, call.ops, call.op_count);
      entry.captures = put(at, call.captures, call.capture_count);
      entry.readings = put(at, call.readings, call.reading_count);
      auto* ops = reinterpret_cast<SteerOp*>(bytes_.data() + entry.ops);
      for (int64_t i = 0; i < call.op_count; ++i) {
        hosts_.push_back(call.counters + ops[i].counter);
        ops[i].counter = static_cast<int32_t>(i);
      }
      std::memcpy(bytes_.data() + site.slot * static_cast<int64_t>(sizeof(SlotEntry)), &entry, sizeof entry);
      slots_used_.push_back(site.slot);
    }
    return true;
  }

  // What goes up, and how much of its beginning comes back.
  const std::vector<uint8_t>& bytes() const { return bytes_; }
  int64_t read_back() const { return read_back_; }

  // Takes the beginning of the block as the step left it: adds its counts to the step's host counters, once,
  // and returns the slots with work that the step passed.
  std::vector<int64_t> take(const uint8_t* head) {
    const auto* entries = reinterpret_cast<const SlotEntry*>(head);
    const auto* counted = reinterpret_cast<const SteerCounter*>(head + first_counter_);
    std::vector<int64_t> visited;
    for (const int64_t slot : slots_used_) {
      if (entries[slot].visited != 0) visited.push_back(slot);
    }
    for (size_t i = 0; i < hosts_.size(); ++i) {
      hosts_[i]->rows += counted[i].rows;
      hosts_[i]->change_norm += counted[i].change_norm;
    }
    hosts_.clear();
    slots_used_.clear();
    return visited;
  }

 private:
  static int64_t aligned(int64_t offset) { return (offset + 15) / 16 * 16; }
  static int64_t after(int64_t offset, size_t each, int64_t count) {
    return aligned(offset) + static_cast<int64_t>(each) * count;
  }
  template <class T>
  int64_t put(int64_t& at, const T* data, int64_t count) {
    const int64_t offset = aligned(at);
    if (count > 0) std::memcpy(bytes_.data() + offset, data, static_cast<size_t>(count) * sizeof(T));
    at = offset + count * static_cast<int64_t>(sizeof(T));
    return offset;
  }

  int64_t slots_;
  int64_t capacity_;
  std::vector<uint8_t> bytes_;
  std::vector<SteerCounter*> hosts_;
  std::vector<int64_t> slots_used_;
  int64_t read_back_ = 0;
  int64_t first_counter_ = 0;
};

}  // namespace chatspace::cuda

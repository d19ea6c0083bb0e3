// SPDX-License-Identifier: Apache-2.0
// What a compiled program consists of, as words to compare.
#include <bit>

#include "steering/program.h"

namespace chatspace {
namespace {

// Every number by its bits: -0 is not 0.
class Words {
 public:
  void add(uint64_t word) { words_.push_back(word); }
  void add(int32_t number) { add(static_cast<uint64_t>(static_cast<uint32_t>(number))); }
  void add(bool flag) { add(uint64_t{flag}); }
  void add(float number) { add(uint64_t{std::bit_cast<uint32_t>(number)}); }
  void add(const VectorRef& vector) { add(static_cast<uint64_t>(reinterpret_cast<uintptr_t>(vector.get()))); }
  template <typename A, typename B>
  void add(const std::pair<A, B>& pair) {
    add(pair.first);
    add(pair.second);
  }
  template <typename T>
  void add(const std::vector<T>& list) {
    add(static_cast<uint64_t>(list.size()));
    for (const T& each : list) add(each);
  }
  void add(const Scope& scope) {
    add(static_cast<uint64_t>(scope.phase));
    add(scope.has_positions);
    add(scope.positions);
    add(scope.after_generated);
    add(scope.first_generated);
    add(scope.token_ids);
  }
  void add(const SteerOp& op) {
    add(static_cast<uint64_t>(op.kind));
    for (float number : {op.scale, op.min, op.max, op.mean, op.amount, op.threshold}) add(number);
    for (int32_t number : {op.gate_above, op.gate_cosine, op.keep_norm, op.rank, op.counter}) add(number);
  }
  void add(const CompiledOperation& operation) {
    add(operation.op);
    add(operation.scope);
    add(operation.schedule.points);
    add(operation.gate);
    add(operation.latch);
    for (const VectorRef* vector : {&operation.vector, &operation.second, &operation.gate_direction}) add(*vector);
  }
  void add(const SiteProgram& part) {
    add(static_cast<uint64_t>(part.site));
    add(part.operations);
  }
  void add(const GateReading& reading) {
    add(static_cast<uint64_t>(reading.site));
    add(reading.direction);
    add(reading.cosine);
  }
  std::vector<uint64_t> take() { return std::move(words_); }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace

std::vector<uint64_t> Program::identity() const {
  Words words;
  words.add(sites_);
  words.add(readings_);
  return words.take();
}

}  // namespace chatspace

// SPDX-License-Identifier: Apache-2.0
// A test harness in one header: tests and benchmarks register themselves by name, a failed check is
// counted and printed with its place, numeric checks print the worst deviation whether they pass or not.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "kernels/cpu_kernels.h"
#include "kernels/thread_pool.h"

namespace chatspace::testing {

struct Case {
  std::string name;
  bool bench;
  void (*run)();
};

std::vector<Case>& cases();
void fail(const char* file, int line, const std::string& message);

struct Register {
  Register(const char* name, bool bench, void (*run)()) { cases().push_back({name, bench, run}); }
};

#define CHATSPACE_CASE(name, bench)                                                       \
  static void case_##name();                                                              \
  static const ::chatspace::testing::Register register_##name(#name, bench, &case_##name); \
  static void case_##name()
#define TEST(name) CHATSPACE_CASE(name, false)
#define BENCH(name) CHATSPACE_CASE(name, true)

#define CHECK_THAT(condition)                                                          \
  do {                                                                                 \
    if (!(condition)) ::chatspace::testing::fail(__FILE__, __LINE__, "not so: " #condition); \
  } while (false)

// The call must throw an exception whose text holds `part`.
#define CHECK_THROWS(call, part)                                                                          \
  do {                                                                                                    \
    try {                                                                                                 \
      call;                                                                                               \
      ::chatspace::testing::fail(__FILE__, __LINE__, "did not throw: " #call);                            \
    } catch (const std::exception& error) {                                                               \
      if (std::string(error.what()).find(part) == std::string::npos)                                      \
        ::chatspace::testing::fail(__FILE__, __LINE__, std::string("threw something else: ") + error.what()); \
    }                                                                                                     \
  } while (false)

// max |a - b| / (max |b| + tiny) must not exceed `relative`; prints it under `what` when verbose or bad.
bool close(const at::Tensor& a, const at::Tensor& b, double relative, const std::string& what, const char* file,
           int line);
bool same_bits(const at::Tensor& a, const at::Tensor& b, const std::string& what, const char* file, int line);
#define CHECK_CLOSE(a, b, relative, what) ::chatspace::testing::close(a, b, relative, what, __FILE__, __LINE__)
#define CHECK_SAME_BITS(a, b, what) ::chatspace::testing::same_bits(a, b, what, __FILE__, __LINE__)

// Prints the worst deviation seen by CHECK_CLOSE since the last call, under `title`.
void report_worst(const std::string& title);

// Runs body once for every instruction set of this machine, with its tables in use.
void for_each_isa(const std::function<void(const CpuKernels&)>& body);

}  // namespace chatspace::testing

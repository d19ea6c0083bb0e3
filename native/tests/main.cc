// SPDX-License-Identifier: Apache-2.0
// chatspace_tests [PART OF NAME]...          runs the tests whose name holds one of the parts (none = all)
// chatspace_tests --bench [PART OF NAME]...  runs benchmarks instead
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>

#include "tests/check.h"

namespace chatspace::testing {
namespace {
int g_failures = 0;
double g_worst = 0.0;
std::string g_worst_at;
}  // namespace

std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

void fail(const char* file, int line, const std::string& message) {
  if (++g_failures <= 50) std::printf("  FAILED %s:%d %s\n", file, line, message.c_str());
}

bool close(const at::Tensor& a, const at::Tensor& b, double relative, const std::string& what, const char* file,
           int line) {
  if (a.sizes() != b.sizes()) {
    fail(file, line, what + ": shapes differ");
    return false;
  }
  if (a.numel() == 0) return true;
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const double scale = y.abs().max().item<double>() + 1e-30;
  const double worst = (x - y).abs().max().item<double>() / scale;
  if (worst > g_worst) {
    g_worst = worst;
    g_worst_at = what;
  }
  if (worst <= relative) return true;
  fail(file, line, what + ": worst deviation " + std::to_string(worst) + " of the largest value, allowed " +
                       std::to_string(relative));
  return false;
}

bool same_bits(const at::Tensor& a, const at::Tensor& b, const std::string& what, const char* file, int line) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  if (x.sizes() == y.sizes() && x.scalar_type() == y.scalar_type() &&
      (x.numel() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0))
    return true;
  fail(file, line, what + ": bits differ");
  return false;
}

void report_worst(const std::string& title) {
  std::printf("  %s: worst deviation %.2e (%s)\n", title.c_str(), g_worst, g_worst_at.c_str());
  g_worst = 0.0;
  g_worst_at.clear();
}

void for_each_isa(const std::function<void(const CpuKernels&)>& body) {
  const CpuKernels& chosen = cpu_kernels();
  for (const Isa isa : {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAmx}) {
    const CpuKernels* kernels = cpu_kernels_for(isa);
    if (kernels == nullptr) continue;
    use_cpu_kernels(*kernels);
    body(*kernels);
  }
  use_cpu_kernels(chosen);
}

}  // namespace chatspace::testing

int main(int argc, char** argv) {
  using namespace chatspace::testing;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const bool bench = argc > 1 && std::strcmp(argv[1], "--bench") == 0;
  std::vector<std::string> parts(argv + (bench ? 2 : 1), argv + argc);
  int ran = 0;
  std::sort(cases().begin(), cases().end(), [](const Case& a, const Case& b) { return a.name < b.name; });
  for (const Case& test : cases()) {
    if (test.bench != bench) continue;
    const bool wanted = parts.empty() || std::any_of(parts.begin(), parts.end(), [&](const std::string& part) {
                          return test.name.find(part) != std::string::npos;
                        });
    if (!wanted) continue;
    ++ran;
    const int before = g_failures;
    const auto start = std::chrono::steady_clock::now();
    std::printf("%s\n", test.name.c_str());
    try {
      test.run();
    } catch (const std::exception& error) {
      fail(test.name.c_str(), 0, std::string("threw ") + error.what());
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::printf("  %s %.2f s\n", g_failures == before ? "ok" : "FAILED", seconds);
  }
  std::printf("%d run, %d checks failed\n", ran, g_failures);
  return g_failures == 0 && ran > 0 ? 0 : 1;
}

// SPDX-License-Identifier: Apache-2.0
// Turns whatever a piece of work throws into a code, a sentence and details, so that nothing unwinds
// through the executor thread and no request is left without an answer.
#pragma once

#include <functional>
#include <string>

namespace chatspace {

struct Failure {
  std::string code;  // empty = none
  std::string message;
  std::string details = "{}";  // JSON object
  explicit operator bool() const { return !code.empty(); }
};

Failure guard(const std::function<void()>& work);

}  // namespace chatspace

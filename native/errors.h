// SPDX-License-Identifier: Apache-2.0
// The one exception type that carries a stable code to JavaScript. Everything else that is thrown
// (libtorch's c10::Error, std::bad_alloc) is wrapped at the bindings with a general code.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace chatspace {

class Error : public std::runtime_error {
 public:
  using Details = std::vector<std::pair<std::string, std::string>>;
  Error(std::string code, const std::string& message, Details details = {})
      : std::runtime_error(message), code_(std::move(code)), details_(std::move(details)) {}
  const std::string& code() const { return code_; }
  const Details& details() const { return details_; }

 private:
  std::string code_;
  Details details_;
};

// What an error of the TorchScript interpreter comes down to: its message is a traceback of the archive's
// code whose last line says what happened.
inline std::string brief(std::string message) {
  while (!message.empty() && (message.back() == '\n' || message.back() == ' ')) message.pop_back();
  if (message.find("Traceback of TorchScript") == std::string::npos) return message;
  const size_t last = message.rfind('\n');
  return last == std::string::npos ? message : message.substr(last + 1);
}

// Text of any streamable values, for messages.
template <typename... Args>
std::string text(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

}  // namespace chatspace

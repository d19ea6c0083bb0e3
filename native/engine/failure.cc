// SPDX-License-Identifier: Apache-2.0
#include "engine/failure.h"

#include <c10/util/Exception.h>

#include <cstdio>
#include <new>

#include "errors.h"

namespace chatspace {
namespace {

std::string quoted(const std::string& value) {
  std::string out = "\"";
  for (unsigned char c : value) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      out += escape;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + "\"";
}

}  // namespace

Failure guard(const std::function<void()>& work) {
  try {
    work();
    return {};
  } catch (const Error& error) {
    std::string details = "{";
    for (const auto& [key, value] : error.details()) {
      details += (details.size() > 1 ? "," : "") + quoted(key) + ":" + quoted(value);
    }
    return {error.code(), error.what(), details + "}"};
  } catch (const c10::OutOfMemoryError& error) {
    return {"ERR_OUT_OF_MEMORY", brief(error.what_without_backtrace()), "{}"};
  } catch (const c10::Error& error) {
    return {"ERR_RUNTIME", brief(error.what_without_backtrace()), "{}"};
  } catch (const std::bad_alloc&) {
    return {"ERR_OUT_OF_MEMORY", "the process is out of memory", "{}"};
  } catch (const std::exception& error) {
    return {"ERR_RUNTIME", brief(error.what()), "{}"};
  } catch (...) {
    return {"ERR_RUNTIME", "an unknown exception", "{}"};
  }
}

}  // namespace chatspace

// SPDX-License-Identifier: Apache-2.0
// Opens shared libraries by path before the addon is loaded. process.dlopen cannot do it (a plain
// library does not register itself as an addon and is closed again), and LD_LIBRARY_PATH is read only
// at process start. Once a library with the right SONAME is in the process, the dynamic loader uses it
// for the addon's DT_NEEDED entry of that name.
//
// Bare Node-API, no torch, no C++ runtime beyond the headers: it must load where nothing else does.
#include <dlfcn.h>
#include <node_api.h>

#include <string>

namespace {

// open(path) -> null, or the loader's message. The handle is kept for the life of the process.
// RTLD_LOCAL on purpose: libtorch's symbols (protobuf, onnx) must not bind into other addons.
napi_value open_library(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument = nullptr;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  size_t length = 0;
  if (count < 1 || napi_get_value_string_utf8(env, argument, nullptr, 0, &length) != napi_ok) {
    napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "open: expected a path");
    return nullptr;
  }
  std::string path(length + 1, '\0');
  napi_get_value_string_utf8(env, argument, path.data(), path.size(), &length);
  napi_value result = nullptr;
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) {
    napi_get_null(env, &result);
  } else {
    const char* reason = dlerror();
    napi_create_string_utf8(env, reason != nullptr ? reason : "dlopen failed", NAPI_AUTO_LENGTH, &result);
  }
  return result;
}

}  // namespace

NAPI_MODULE_INIT(/* napi_env env, napi_value exports */) {
  napi_value function = nullptr;
  napi_create_function(env, "open", NAPI_AUTO_LENGTH, open_library, nullptr, &function);
  napi_set_named_property(env, exports, "open", function);
  return exports;
}

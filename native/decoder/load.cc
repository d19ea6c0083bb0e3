// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <new>

#include "decoder/device.h"
#include "decoder/foreign_decoder.h"
#include "decoder/own_decoder.h"
#include "errors.h"

namespace chatspace {

std::unique_ptr<Decoder> load_decoder(const LoadOptions& options) {
  if (options.device != "cpu") require_cuda(options.device);
  Archive archive = open_archive(options.path);
  try {
    if (archive.extra_files.count("chatspace.json") != 0) {
      return std::make_unique<OwnDecoder>(std::move(archive), options);
    }
    if (options.activations == "int16") {
      throw Error("ERR_ACTIVATIONS", text("activations int16: expected an archive of our own with quantised matrices, got ",
                                          options.path));
    }
    return std::make_unique<ForeignDecoder>(std::move(archive), options);
  } catch (const Error&) {
    throw;
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    // An archive that libtorch reads but whose contents are not what they say (a missing attribute, a
    // method that does not compile).
    throw Error("ERR_ARCHIVE_LOAD", text(options.path, " cannot be used: ", brief(error.what_without_backtrace())),
                {{"path", options.path}});
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw Error("ERR_ARCHIVE_LOAD", text(options.path, " cannot be used: ", brief(error.what())),
                {{"path", options.path}});
  }
}

at::Tensor Decoder::lens(const at::Tensor&) {
  throw Error("ERR_REDUCER", "the logit lens needs an archive of our own (chatspace-steer convert)");
}

}  // namespace chatspace

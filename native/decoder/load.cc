// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <new>

#include "decoder/device.h"
#include "decoder/foreign_decoder.h"
#include "decoder/own_decoder.h"
#include "errors.h"
#include "ops/backend.h"

namespace chatspace {
namespace {

Backend& backend_for(at::Device device) { return device.is_cpu() ? cpu_backend() : *cuda_backend(); }

}  // namespace

std::unique_ptr<Decoder> load_decoder(const LoadOptions& options) {
  if (options.device != "cpu") require_cuda(options.device);
  Archive archive = open_archive(options.path);
  try {
    if (archive.extra_files.count("chatspace.json") != 0) {
      auto decoder = std::make_unique<OwnDecoder>(std::move(archive), options);
      if (options.flash_attention) decoder->use_flash(backend_for(decoder->device()), options.reproducible);
      if (options.cuda_graphs) decoder->use_graphs(backend_for(decoder->device()));
      return decoder;
    }
    if (options.cuda_graphs) {
      throw Error("ERR_GRAPHS_MODEL", text("cudaGraphs: expected an archive of our own (chatspace-steer convert), got ",
                                           options.path));
    }
    if (options.flash_attention) {
      throw Error("ERR_FLASH_ATTENTION",
                  text("flashAttention: expected an archive of our own (chatspace-steer convert), got ", options.path));
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

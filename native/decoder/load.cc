// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "decoder/device.h"
#include "decoder/foreign_decoder.h"
#include "decoder/own_decoder.h"

namespace chatspace {

std::unique_ptr<Decoder> load_decoder(const LoadOptions& options) {
  if (options.device != "cpu") require_cuda(options.device);
  Archive archive = open_archive(options.path);
  if (archive.extra_files.count("chatspace.json") != 0) {
    return std::make_unique<OwnDecoder>(std::move(archive), options);
  }
  return std::make_unique<ForeignDecoder>(std::move(archive), options);
}

}  // namespace chatspace

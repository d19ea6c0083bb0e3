// SPDX-License-Identifier: Apache-2.0
#include "decoder/archive.h"

#include <algorithm>

#include "decoder/zip_directory.h"
#include "decoder/sha256.h"
#include "errors.h"

namespace chatspace {

namespace jit = torch::jit;

namespace {

constexpr const char* kExporter = "scripts/py/export_torchscript.py";

// "NAME/extra/x" -> "x" and the like; every record of an archive lies under one top folder.
std::string below_top(const std::string& name) {
  const size_t slash = name.find('/');
  return slash == std::string::npos ? name : name.substr(slash + 1);
}

std::string hash_of(std::vector<ZipEntry> entries) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  std::string identity;
  for (const ZipEntry& entry : entries) {
    const std::string name = below_top(entry.name);
    if (name.starts_with("data/") || name.starts_with("constants/") || name == "data.pkl" || name == "constants.pkl") {
      identity += text(name, " ", entry.size, " ", entry.crc, "\n");
    }
  }
  return sha256_hex(identity);
}

}  // namespace

Archive open_archive(const std::string& path) {
  const std::vector<ZipEntry> entries = read_zip_directory(path);
  Archive archive;
  bool code = false;
  bool constants = false;
  for (const ZipEntry& entry : entries) {
    const std::string name = below_top(entry.name);
    code = code || name.starts_with("code/");
    constants = constants || name == "constants.pkl";
    if (name.starts_with("data/") || name.starts_with("constants/")) {
      archive.weight_bytes += static_cast<int64_t>(entry.size);
    }
    if (name.starts_with("extra/")) archive.extra_files.emplace(name.substr(6), "");
  }
  if (!code || !constants) {
    throw Error("ERR_ARCHIVE_FORMAT",
                text(path, " is a zip file but not a TorchScript archive (no code in it); a file of torch.save or "
                           "torch.export cannot be run here: export the model with ", kExporter),
                {{"path", path}});
  }
  archive.weight_hash = hash_of(entries);
  jit::ExtraFilesMap extra;
  for (const auto& [name, bytes] : archive.extra_files) extra[name] = bytes;
  try {
    archive.module = jit::load(path, at::kCPU, extra);
  } catch (const c10::Error& error) {
    throw Error("ERR_ARCHIVE_LOAD", text(path, " cannot be loaded: ", error.what_without_backtrace()),
                {{"path", path}});
  } catch (const std::exception& error) {
    throw Error("ERR_ARCHIVE_LOAD", text(path, " cannot be loaded: ", error.what()), {{"path", path}});
  }
  for (auto& [name, bytes] : extra) archive.extra_files[name] = std::move(bytes);
  archive.module.eval();
  return archive;
}

jit::Module submodule(const jit::Module& root, const std::string& path) {
  jit::Module module = root;
  for (size_t at = 0; at < path.size();) {
    const size_t dot = std::min(path.find('.', at), path.size());
    module = module.attr(path.substr(at, dot - at)).toModule();
    at = dot + 1;
  }
  return module;
}

std::pair<std::string, int64_t> find_layers(const jit::Module& root) {
  std::pair<std::string, int64_t> best{"", 0};
  for (const auto& named : root.named_modules()) {
    int64_t count = 0;
    for (const auto& child : named.value.named_children()) {
      if (child.name != std::to_string(count)) {
        count = 0;
        break;
      }
      ++count;
    }
    // Only a list of modules that run: a ParameterList or a nested Sequential of one class would do, an
    // empty container would not.
    if (count > best.second) best = {named.name, count};
  }
  return best;
}

std::vector<std::pair<std::string, std::string>> module_tree(const jit::Module& root) {
  std::vector<std::pair<std::string, std::string>> tree;
  for (const auto& named : root.named_modules()) {
    tree.emplace_back(named.name, named.value.type()->name()->name());
  }
  return tree;
}

}  // namespace chatspace

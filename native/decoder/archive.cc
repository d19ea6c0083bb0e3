// SPDX-License-Identifier: Apache-2.0
#include "decoder/archive.h"

#include <algorithm>
#include <iterator>

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
  // Code and pickles; tensors are read by the gigabyte, and a wrong bit in one harms no process.
  std::vector<ZipEntry> checked;
  std::copy_if(entries.begin(), entries.end(), std::back_inserter(checked), [](const ZipEntry& entry) {
    const std::string name = below_top(entry.name);
    return !name.starts_with("data/") && !name.starts_with("constants/");
  });
  verify_checksums(path, checked);
  archive.weight_hash = hash_of(entries);
  jit::ExtraFilesMap extra;
  for (const auto& [name, bytes] : archive.extra_files) extra[name] = bytes;
  try {
    archive.module = jit::load(path, at::kCPU, extra);
  } catch (const c10::Error& error) {
    throw Error("ERR_ARCHIVE_LOAD", text(path, " cannot be loaded: ", brief(error.what_without_backtrace())),
                {{"path", path}});
  } catch (const std::exception& error) {
    throw Error("ERR_ARCHIVE_LOAD", text(path, " cannot be loaded: ", brief(error.what())), {{"path", path}});
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

namespace {

// Number of children when they are named 0, 1, 2, ... and of one class, else 0.
int64_t list_length(const jit::Module& module) {
  int64_t count = 0;
  std::string kind;
  for (const auto& child : module.named_children()) {
    const std::string name = child.value.type()->name()->name();
    if (child.name != std::to_string(count) || (count > 0 && name != kind)) return 0;
    kind = name;
    ++count;
  }
  return count;
}

}  // namespace

std::pair<std::string, int64_t> find_layers(const jit::Module& root) {
  // Lists inside a layer (experts, a Sequential) may be longer than the list of layers, so a list that
  // lies in another one does not count. Parents come before their children here.
  std::vector<std::string> lists;
  std::pair<std::string, int64_t> best{"", 0};
  for (const auto& named : root.named_modules()) {
    const int64_t count = list_length(named.value);
    const bool inside = std::any_of(lists.begin(), lists.end(), [&](const std::string& list) {
      return named.name.starts_with(list + ".");
    });
    if (count == 0 || inside || named.name.empty()) continue;
    lists.push_back(named.name);
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

// SPDX-License-Identifier: Apache-2.0
#include "archive/writer.h"

#include <fcntl.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/serialization/export.h>
#include <torch/script.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <map>
#include <set>
#include <string_view>
#include <tuple>

#include "archive/mapped_weights.h"
#include "archive/restore.h"
#include "errors.h"
#include "ops/kv_cache.h"

namespace chatspace {
namespace {

using torch::jit::Module;

// Lets a family's source say `chatspace.op(...)` for our operators beside `torch.op(...)`.
struct OperatorResolver : torch::jit::NativeResolver {
  std::shared_ptr<torch::jit::SugaredValue> resolveValue(const std::string& name, torch::jit::GraphFunction& function,
                                                         const torch::jit::SourceRange& range) override {
    if (name == "chatspace") return std::make_shared<torch::jit::BuiltinModule>("chatspace");
    return NativeResolver::resolveValue(name, function, range);
  }
};

// Makes modules of a plan. Instances of one kind with the same attribute types share one class, and so
// one graph, as instances of a Python class do.
class ModuleBuilder {
 public:
  ModuleBuilder(const ConvertPlan& plan, MappedWeights& weights)
      : plan_(plan),
        weights_(weights),
        unit_(std::make_shared<torch::jit::CompilationUnit>()),
        cache_(c10::make_intrusive<KVCache>(plan.cache)),
        cache_type_(torch::getCustomClassType<c10::intrusive_ptr<KVCache>>()),
        table_("chatspace-weights 1\n") {
    if (!plan.dtype.empty()) table_ += text("dtype ", plan.dtype, '\n');
  }

  Module build() {
    for (const ModulePlan& module : plan_.modules) add(module);
    auto root = modules_.find("");
    if (root == modules_.end() || modules_.size() != 1)
      throw Error("ERR_CONVERT_PLAN", "the plan's last module has to be the root, after all its children");
    return root->second;
  }

  // "chatspace-weights 1", "dtype DTYPE" where the plan says one, then a line a weight: PATH TYPE ADDEND DIM...
  const std::string& table() const { return table_; }

 private:
  struct Slot {
    std::string name;
    c10::TypePtr type;
    c10::IValue value;
    bool parameter;
  };

  const std::string& source_of(const std::string& kind) const {
    for (const auto& [name, source] : plan_.sources)
      if (name == kind) return source;
    throw Error("ERR_CONVERT_PLAN", text("there is no TorchScript source of module kind ", kind));
  }

  void add(const ModulePlan& plan) {
    const std::string& source = source_of(plan.kind);
    std::vector<Slot> slots;
    for (const AttributePlan& attribute : plan.attributes) slots.push_back(scalar(attribute));
    for (const WeightPlan& weight : plan.weights) slots.push_back(parameter(plan, weight));
    // The root always has it: the engine finds the cache there.
    if (plan.path.empty() || source.find("self.kv") != std::string::npos) {
      slots.push_back({"kv", cache_type_, cache_, false});
    }
    for (auto& [name, child] : take_children(plan.path))
      slots.push_back({name, child.type(), child._ivalue(), false});

    std::string signature = plan.kind;
    for (const Slot& slot : slots) signature += text('\n', slot.name, ' ', slot.type->annotation_str());
    auto known = classes_.find(signature);
    if (known != classes_.end()) {
      Module module(unit_, known->second);
      for (const Slot& slot : slots) module._ivalue()->setAttr(slot.name, slot.value);
      modules_.emplace(plan.path, module);
      return;
    }
    Module module(c10::QualifiedName("__torch__.chatspace." + plan.kind), unit_, /*shouldMangle=*/true);
    for (const Slot& slot : slots) {
      module.type()->addOrCheckAttribute(slot.name, slot.type, slot.parameter);
      module._ivalue()->setAttr(slot.name, slot.value);
    }
    try {
      if (!source.empty()) module.define(source, std::make_shared<OperatorResolver>());
    } catch (const c10::Error& error) {
      throw Error("ERR_CONVERT_SOURCE", text("TorchScript of module kind ", plan.kind, " (", plan.path,
                                             ") does not compile: ", error.what_without_backtrace()));
    } catch (const std::exception& error) {
      throw Error("ERR_CONVERT_SOURCE", text("TorchScript of module kind ", plan.kind, " (", plan.path,
                                             ") does not compile: ", error.what()));
    }
    classes_.emplace(signature, module.type());
    modules_.emplace(plan.path, module);
  }

  static Slot scalar(const AttributePlan& attribute) {
    Slot slot{attribute.name, nullptr, {}, false};
    if (const auto* integer = std::get_if<int64_t>(&attribute.value)) {
      slot.type = c10::IntType::get();
      slot.value = *integer;
    } else if (const auto* real = std::get_if<double>(&attribute.value)) {
      slot.type = c10::FloatType::get();
      slot.value = *real;
    } else if (const auto* flag = std::get_if<bool>(&attribute.value)) {
      slot.type = c10::BoolType::get();
      slot.value = *flag;
    } else {
      slot.type = c10::StringType::get();
      slot.value = std::get<std::string>(attribute.value);
    }
    return slot;
  }

  Slot parameter(const ModulePlan& module, const WeightPlan& weight) {
    const std::string where = module.path.empty() ? weight.name : module.path + "." + weight.name;
    const c10::TypePtr type = weight.optional ? c10::TypePtr(c10::OptionalType::ofTensor()) : c10::TensorType::get();
    Slot slot{weight.name, type, {}, true};
    if (!weight.source) {
      if (!weight.optional) throw Error("ERR_CONVERT_PLAN", text("weight ", where, " is required and has no source"));
      return slot;
    }
    const StoredWeight stored = weights_.open(*weight.source, where);
    if (weight.source->addend != 0.0 && stored.shape.size() != 1)
      throw Error("ERR_CONVERT_PLAN", text("weight ", where, ": only vectors take an addend"));
    char addend[32];
    std::snprintf(addend, sizeof addend, "%.9g", weight.source->addend);
    table_ += text(where, ' ', stored.type, ' ', addend);
    for (int64_t size : stored.shape) table_ += text(' ', size);
    table_ += '\n';
    slot.value = stored.tensor;
    return slot;
  }

  // Children made so far ("layers.0" of "layers"), numbers in numeric order; they leave the list of
  // modules without a parent.
  std::vector<std::pair<std::string, Module>> take_children(const std::string& path) {
    const std::string prefix = path.empty() ? "" : path + ".";
    std::vector<std::pair<std::string, Module>> children;
    for (auto entry = modules_.begin(); entry != modules_.end();) {
      const std::string& candidate = entry->first;
      const bool inside = candidate.compare(0, prefix.size(), prefix) == 0;
      const std::string name = inside ? candidate.substr(prefix.size()) : "";
      if (!inside || name.empty() || name.find('.') != std::string::npos) {
        ++entry;
        continue;
      }
      children.emplace_back(name, entry->second);
      entry = modules_.erase(entry);
    }
    std::sort(children.begin(), children.end(), [](const auto& a, const auto& b) {
      const bool numbers = std::isdigit(static_cast<unsigned char>(a.first[0])) != 0 &&
                           std::isdigit(static_cast<unsigned char>(b.first[0])) != 0;
      if (numbers && a.first.size() != b.first.size()) return a.first.size() < b.first.size();
      return a.first < b.first;
    });
    return children;
  }

  const ConvertPlan& plan_;
  MappedWeights& weights_;
  std::shared_ptr<torch::jit::CompilationUnit> unit_;
  c10::intrusive_ptr<KVCache> cache_;
  c10::TypePtr cache_type_;
  std::map<std::string, Module> modules_;
  std::map<std::string, c10::ClassTypePtr> classes_;
  std::string table_;
};

// The file under a temporary name in the folder of the final one. Removed unless committed.
class PendingFile {
 public:
  explicit PendingFile(const std::string& output) : output_(output) {
    static std::atomic<uint64_t> counter{0};
    path_ = text(output, ".tmp-", ::getpid(), "-", counter++);
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) fail("cannot create", path_);
  }
  ~PendingFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!path_.empty()) ::unlink(path_.c_str());
  }
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  void write(const char* data, size_t bytes) {
    while (bytes > 0) {
      const ssize_t written = ::write(fd_, data, bytes);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("cannot write", path_);
      data += written;
      bytes -= static_cast<size_t>(written);
    }
  }

  void commit() {
    if (::fsync(fd_) != 0) fail("cannot flush", path_);
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0) fail("cannot close", path_);
    if (::rename(path_.c_str(), output_.c_str()) != 0) fail("cannot rename to", output_);
    path_.clear();
    // The name is durable only when the folder is; a file system that cannot do it has no such promise.
    const int folder = ::open(folder_of(output_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
      ::fsync(folder);
      ::close(folder);
    }
  }

  static std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  }

 private:
  [[noreturn]] static void fail(const std::string& what, const std::string& path) {
    throw Error("ERR_CONVERT_WRITE", text(what, " ", path, ": ", std::strerror(errno)), {{"path", path}});
  }

  std::string output_;
  std::string path_;
  int fd_ = -1;
};

// Bytes of the sources that are brought into another type, and bytes that are written; equal sources once.
std::pair<int64_t, int64_t> work_of(const ConvertPlan& plan) {
  std::set<std::tuple<std::string, int64_t, int64_t, std::string>> seen;
  std::pair<int64_t, int64_t> work{0, 0};
  for (const ModulePlan& module : plan.modules) {
    for (const WeightPlan& weight : module.weights) {
      if (!weight.source) continue;
      const WeightSource& source = *weight.source;
      if (!seen.emplace(source.file, source.offset, source.row_start, source.store).second) continue;
      const int64_t all = std::max<int64_t>(1, source.shape.empty() ? 1 : source.shape[source.transpose ? 1 : 0]);
      const int64_t taken = source.rows < 0 ? source.bytes : source.bytes / all * source.rows;
      if (source.store.empty() || source.store == source.type) {
        work.second += taken;
        continue;
      }
      int64_t elements = source.rows < 0 ? all : source.rows;
      for (size_t i = 0; i < source.shape.size(); ++i)
        if (i != (source.transpose ? size_t{1} : size_t{0})) elements *= source.shape[i];
      work.first += taken;
      work.second += restored_bytes(source.store, elements);
    }
  }
  return work;
}

}  // namespace

void write_archive(const ConvertPlan& plan, const ConvertProgress& progress) {
  const auto [to_restore, to_write] = work_of(plan);
  const int64_t total = to_restore + to_write;
  constexpr size_t kChunk = size_t{8} << 20;
  int64_t done = 0;
  int64_t reported = 0;
  const auto advance = [&](int64_t bytes) {
    done += bytes;
    if (!progress || done - reported < static_cast<int64_t>(kChunk / 2)) return;
    reported = done;
    progress(std::min(done, total), total);
  };
  PendingFile file(plan.output);
  MappedWeights weights(PendingFile::folder_of(plan.output), advance);
  ModuleBuilder builder(plan, weights);
  const Module root = builder.build();

  torch::jit::ExtraFilesMap extra;
  extra["weights.txt"] = builder.table();
  for (const auto& [name, bytes] : plan.extra_files) extra[name] = bytes;

  // torch's writer finishes the zip in its destructor, so an exception from the sink would end the
  // process. The first failure is kept, the rest of the bytes are swallowed, and it is thrown after.
  std::exception_ptr failure;
  const auto sink = [&](const void* data, size_t bytes) -> size_t {
    if (failure || data == nullptr) return bytes;
    try {
      const char* from = static_cast<const char*>(data);
      for (size_t at = 0; at < bytes; at += kChunk) {
        const size_t part = std::min(kChunk, bytes - at);
        file.write(from + at, part);
        weights.release(from + at, part);
        advance(static_cast<int64_t>(part));
      }
    } catch (...) {
      failure = std::current_exception();
    }
    return bytes;
  };
  try {
    torch::jit::ExportModule(root, sink, extra);
  } catch (const c10::Error& error) {
    if (!failure) {
      throw Error("ERR_CONVERT_WRITE",
                  text("cannot write ", plan.output, ": ", error.what_without_backtrace()));
    }
  }
  if (failure) std::rethrow_exception(failure);
  file.commit();
  if (progress) progress(total, total);
}

}  // namespace chatspace

// SPDX-License-Identifier: Apache-2.0
#include "archive/weights.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

#include "archive/mapped_weights.h"
#include "archive/weight_arena.h"
#include "errors.h"
#include "kernels/dequant.h"
#include "kernels/quant_planes.h"
#include "kernels/quantize.h"
#include "ops/backend.h"

namespace chatspace {
namespace {

struct Entry {
  std::string path;  // "layers.0.attn.q"
  std::string type;
  double addend = 0.0;
  std::vector<int64_t> shape;

  int64_t elements() const {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    return count;
  }
};

[[noreturn]] void mismatch(const std::string& path, const std::string& message) {
  throw Error("ERR_ARCHIVE_WEIGHTS", text("weight ", path, " of the archive: ", message), {{"weight", path}});
}

struct Table {
  std::string dtype;  // what "auto" stands for; "" = that of most elements
  std::vector<Entry> entries;
};

Table parse(const std::string& table) {
  std::istringstream lines(table);
  std::string line;
  if (!std::getline(lines, line) || line != "chatspace-weights 1")
    throw Error("ERR_ARCHIVE_WEIGHTS", text("the archive's ", kWeightsTable, " is not of version 1"));
  Table parsed;
  std::vector<Entry>& entries = parsed.entries;
  while (std::getline(lines, line)) {
    if (entries.empty() && line.rfind("dtype ", 0) == 0) {
      parsed.dtype = line.substr(6);
      continue;
    }
    std::istringstream fields(line);
    Entry entry;
    if (!(fields >> entry.path >> entry.type >> entry.addend)) mismatch(line, "unreadable line");
    int64_t elements = 1;
    for (int64_t size = 0; fields >> size;) {
      if (size <= 0 || elements > (int64_t{1} << 46) / size) mismatch(entry.path, "impossible shape");
      elements *= size;
      entry.shape.push_back(size);
    }
    if (entry.shape.empty() || !fields.eof()) mismatch(entry.path, "unreadable shape");
    entries.push_back(std::move(entry));
  }
  return parsed;
}

// Block type -> dtype, on all threads of the pool. Half precision goes through a small buffer, so that
// the float32 values of the whole tensor never exist.
at::Tensor dequantized(const Entry& entry, const at::Tensor& stored, at::ScalarType dtype, WeightArena* arena) {
  const int64_t elements = entry.elements();
  if (stored.scalar_type() != at::kByte || stored.dim() != 1 ||
      static_cast<size_t>(stored.numel()) != type_bytes(entry.type, elements))
    mismatch(entry.path, text("expected the bytes of ", elements, " elements of ", entry.type));
  at::Tensor out = arena != nullptr ? arena->empty(entry.shape, dtype)
                                    : at::empty(entry.shape, at::TensorOptions().dtype(dtype));
  const auto* bytes = stored.const_data_ptr<uint8_t>();
  // All block types have 32 or 256 elements a block.
  constexpr int64_t kPart = 8192;
  at::parallel_for(0, (elements + kPart - 1) / kPart, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> buffer(dtype == at::kFloat ? 0 : kPart);
    for (int64_t part = begin; part < end; ++part) {
      const int64_t first = part * kPart;
      const int64_t count = std::min(kPart, elements - first);
      const uint8_t* in = bytes + type_bytes(entry.type, first);
      if (dtype == at::kFloat) {
        dequantize(entry.type, in, count, out.mutable_data_ptr<float>() + first);
        continue;
      }
      dequantize(entry.type, in, count, buffer.data());
      if (dtype == at::kHalf)
        std::copy_n(buffer.data(), count, out.mutable_data_ptr<at::Half>() + first);
      else
        std::copy_n(buffer.data(), count, out.mutable_data_ptr<at::BFloat16>() + first);
    }
  });
  return out;
}

// arena: for a result that stays; null for one that is only passed on.
at::Tensor values(const Entry& entry, const at::Tensor& stored, at::ScalarType dtype, at::Device device,
                  WeightArena* arena) {
  const bool vector = entry.shape.size() == 1;
  const at::ScalarType wanted = vector && device.is_cpu() ? at::kFloat : dtype;
  at::Tensor result;
  if (is_float_type(entry.type)) {
    if (stored.scalar_type() != float_type(entry.type) || stored.sizes() != at::IntArrayRef(entry.shape))
      mismatch(entry.path, text("the tensor is ", stored.scalar_type(), " ", stored.sizes(), ", the table says ",
                                entry.type, " ", at::IntArrayRef(entry.shape)));
    result = stored;
  } else {
    const bool stays = entry.addend == 0.0 && device.is_cpu();
    result = dequantized(entry, stored, entry.addend == 0.0 ? wanted : at::kFloat, stays ? arena : nullptr);
  }
  if (entry.addend != 0.0) result = result.to(at::kFloat) + static_cast<float>(entry.addend);
  return result.to(device, wanted).contiguous();
}

struct BlockForm {
  ElementType type;
  const char* name;
  at::ScalarType tag;
  at::ScalarType planes;
};

constexpr BlockForm kForms[] = {{ElementType::kQ8_0, "Q8_0", kQ8_0Tag, kQ8_0PlanesTag},
                                {ElementType::kQ4_0, "Q4_0", kQ4_0Tag, kQ4_0PlanesTag},
                                {ElementType::kQ4_1, "Q4_1", kQ4_1Tag, kQ4_1PlanesTag}};

// The blocks of a matrix as the operators of a device read them: [rows, units of a row], see ops/backend.h.
// On the CPU the result is `bytes` itself, rearranged in place where planes of rows are asked for.
at::Tensor placed(const BlockForm& form, at::Tensor bytes, int64_t rows, at::Device device, Activations activations) {
  if (!device.is_cpu()) {
    at::Tensor planes = at::empty_like(bytes);
    blocks_to_planes(form.type, bytes.const_data_ptr(), bytes.numel() / block_bytes(form.type),
                     planes.mutable_data_ptr());
    return planes.to(device).view(form.tag).view({rows, -1});
  }
  if (activations == Activations::kFloat32) return bytes.view(form.tag).view({rows, -1});
  const int64_t row = bytes.numel() / std::max<int64_t>(rows, 1);
  auto* data = bytes.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> blocks(static_cast<size_t>(row));
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(data + i * row, row, blocks.begin());
      planes_row(form.type, blocks.data(), row / block_bytes(form.type) * kQuantBlock, data + i * row);
    }
  });
  return bytes.view(form.planes).view({rows, -1});
}

at::Tensor quantized(const BlockForm& form, const at::Tensor& dense, at::Device device, Activations activations,
                     WeightArena& arena) {
  const int64_t rows = dense.size(0);
  const int64_t width = dense.size(1);
  const int64_t bytes = row_bytes(form.type, width);
  at::Tensor out = device.is_cpu() ? arena.empty({rows * bytes}, at::kByte)
                                   : at::empty({rows * bytes}, at::TensorOptions().dtype(at::kByte));
  const float* in = dense.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) quantize_row(form.type, in + row * width, width, to + row * bytes);
  });
  return placed(form, out, rows, device, activations);
}

// The embedding table and the head decide every token: they keep eight bits.
bool decides_tokens(const std::string& path) { return path == "head" || path.rfind("embed.", 0) == 0; }

// The matrix in blocks, or an undefined tensor when it is not to be or cannot be kept so.
at::Tensor in_blocks(const Entry& entry, const at::Tensor& stored, Quantize quantize, at::Device device,
                     Activations activations, WeightArena& arena) {
  if (quantize == Quantize::kNone || entry.shape.size() != 2 || entry.addend != 0.0) return {};
  if (entry.shape[1] % kQuantBlock != 0) return {};
  const bool eight = quantize == Quantize::kInt8 || decides_tokens(entry.path);
  for (const BlockForm& form : kForms) {
    const bool fits = quantize == Quantize::kStored || form.type == (eight ? ElementType::kQ8_0 : ElementType::kQ4_1);
    if (!fits || entry.type != form.name) continue;
    if (stored.scalar_type() != at::kByte ||
        static_cast<size_t>(stored.numel()) != type_bytes(entry.type, entry.elements())) {
      mismatch(entry.path, text("expected the bytes of ", entry.elements(), " elements of ", entry.type));
    }
    const at::Tensor bytes =
        device.is_cpu() ? arena.empty(stored.sizes(), at::kByte).copy_(stored) : stored.contiguous();
    return placed(form, bytes, entry.shape[0], device, activations);
  }
  if (quantize == Quantize::kStored) return {};
  const at::Tensor dense = values(entry, stored, at::kFloat, at::kCPU, nullptr);
  return quantized(kForms[eight ? 0 : 2], dense, device, activations, arena);
}

}  // namespace

at::ScalarType stored_dtype(const std::string& table) {
  const Table parsed = parse(table);
  if (parsed.dtype == "float32") return at::kFloat;
  if (parsed.dtype == "float16") return at::kHalf;
  if (parsed.dtype == "bfloat16") return at::kBFloat16;
  std::map<at::ScalarType, int64_t> elements;
  for (const Entry& entry : parsed.entries)
    if (entry.shape.size() > 1)
      elements[is_float_type(entry.type) ? float_type(entry.type) : at::kFloat] += entry.elements();
  at::ScalarType most = at::kFloat;
  for (const auto& [dtype, count] : elements)
    if (count > elements[most]) most = dtype;
  return most;
}

int64_t materialize_weights(torch::jit::Module& root, const std::string& table, at::ScalarType dtype, at::Device device,
                            Quantize quantize, Activations activations) {
  const at::NoGradGuard no_grad;
  const std::vector<Entry> entries = parse(table).entries;

  // Weights over the same bytes are one weight: where the first one went. Counted first, so that the
  // bytes can go as soon as nobody needs them.
  struct Shared {
    int64_t uses = 0;
    at::Tensor result;
  };
  using Key = std::pair<const void*, bool>;
  std::map<Key, Shared> shared;
  const auto locate = [&](const Entry& entry) {
    torch::jit::Module module = root;
    size_t begin = 0;
    for (size_t dot = entry.path.find('.'); dot != std::string::npos; dot = entry.path.find('.', begin)) {
      const std::string name = entry.path.substr(begin, dot - begin);
      if (!module.hasattr(name) || !module.attr(name).isModule()) mismatch(entry.path, text("no module ", name));
      module = module.attr(name).toModule();
      begin = dot + 1;
    }
    const std::string name = entry.path.substr(begin);
    if (!module.hasattr(name) || !module.attr(name).isTensor()) mismatch(entry.path, "no such tensor");
    return std::pair{module, name};
  };
  const auto key_of = [](const Entry& entry, const at::Tensor& tensor) {
    return Key{tensor.const_data_ptr(), entry.shape.size() == 1};
  };
  for (const Entry& entry : entries) {
    const auto [module, name] = locate(entry);
    ++shared[key_of(entry, module.attr(name).toTensor())].uses;
  }
  WeightArena arena;
  int64_t matrices = 0;
  for (const Entry& entry : entries) {
    auto [module, name] = locate(entry);
    at::Tensor stored = module.attr(name).toTensor();
    Shared& slot = shared[key_of(entry, stored)];
    const bool first_use = !slot.result.defined();
    if (first_use) {
      slot.result = in_blocks(entry, stored, quantize, device, activations, arena);
      matrices += slot.result.defined() ? 1 : 0;
    }
    if (!slot.result.defined()) slot.result = values(entry, stored, dtype, device, &arena);
    if (first_use && slot.result.dim() == 2) slot.result = arena.place(slot.result);
    module.setattr(name, slot.result);
    if (--slot.uses == 0) slot.result.reset();
  }
  return matrices;
}

}  // namespace chatspace

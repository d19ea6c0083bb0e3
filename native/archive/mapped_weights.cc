// SPDX-License-Identifier: Apache-2.0
#include "archive/mapped_weights.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "archive/restore.h"
#include "errors.h"
#include "kernels/dequant.h"

namespace chatspace {
namespace {

// Closes a descriptor when the block is left.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void fail(const std::string& code, const std::string& what, const std::string& path) {
  throw Error(code, text(what, " ", path, ": ", std::strerror(errno)), {{"path", path}});
}

[[noreturn]] void contradiction(const std::string& where, const std::string& message) {
  throw Error("ERR_CONVERT_PLAN", text("weight ", where, ": ", message), {{"weight", where}});
}

int64_t product(const std::vector<int64_t>& shape, const std::string& where) {
  int64_t elements = 1;
  for (int64_t size : shape) {
    if (size <= 0 || elements > std::numeric_limits<int64_t>::max() / size) contradiction(where, "impossible shape");
    elements *= size;
  }
  return elements;
}

// Bytes of `elements` elements, 0 when the type is unknown or they are no whole number of blocks.
int64_t bytes_of(const std::string& type, int64_t elements) {
  if (is_float_type(type)) return elements * (type == "F32" ? 4 : 2);
  return static_cast<int64_t>(type_bytes(type, elements));
}

// Row (head, half, i) of the result is row (head, i, half) of the source: llama.cpp stores the pairs that
// rotate together side by side, Hugging Face stores the two halves one after the other.
void undo_rope_order(const char* in, char* out, int64_t rows, int64_t row_bytes, int64_t heads) {
  const int64_t head_dim = rows / heads;
  const int64_t half = head_dim / 2;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / head_dim;
    const int64_t within = row % head_dim;
    const int64_t from = head * head_dim + 2 * (within % half) + within / half;
    std::memcpy(out + row * row_bytes, in + from * row_bytes, static_cast<size_t>(row_bytes));
  }
}

constexpr int64_t kPartBytes = int64_t{8} << 20;

StoredWeight view_of(const std::shared_ptr<Mapping>& owner, const char* bytes, const std::string& type,
                     const std::vector<int64_t>& shape, int64_t total) {
  StoredWeight weight;
  weight.type = type;
  weight.shape = shape;
  const bool is_float = is_float_type(type);
  const auto options = at::TensorOptions().dtype(is_float ? float_type(type) : at::kByte);
  const std::vector<int64_t> stored_shape = is_float ? shape : std::vector<int64_t>{total};
  weight.tensor = at::from_blob(const_cast<char*>(bytes), stored_shape, [owner](void*) {}, options);
  return weight;
}

}  // namespace

bool is_float_type(const std::string& type) { return type == "F32" || type == "F16" || type == "BF16"; }

at::ScalarType float_type(const std::string& type) {
  return type == "F32" ? at::kFloat : type == "F16" ? at::kHalf : at::kBFloat16;
}

std::shared_ptr<Mapping> Mapping::of_file(const std::string& path) {
  Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail("ERR_CONVERT_READ", "cannot open", path);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail("ERR_CONVERT_READ", "cannot stat", path);
  const auto size = static_cast<size_t>(info.st_size);
  if (size == 0) throw Error("ERR_CONVERT_READ", text("weight file is empty: ", path), {{"path", path}});
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) fail("ERR_CONVERT_READ", "cannot map", path);
  return std::shared_ptr<Mapping>(new Mapping(static_cast<char*>(data), size));
}

std::shared_ptr<Mapping> Mapping::scratch(const std::string& folder, size_t bytes) {
  std::string path = folder + "/.chatspace-scratch-XXXXXX";
  Descriptor file{::mkostemp(path.data(), O_CLOEXEC)};
  if (file.fd < 0) fail("ERR_CONVERT_WRITE", "cannot create a scratch file in", folder);
  ::unlink(path.c_str());
  // Reserved, not sparse: a full disk is an error here, not a SIGBUS at the first write.
  const int reserved = ::posix_fallocate(file.fd, 0, static_cast<off_t>(bytes));
  if (reserved != 0) {
    errno = reserved;
    fail("ERR_CONVERT_WRITE", text("cannot reserve ", bytes, " bytes in"), folder);
  }
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) fail("ERR_CONVERT_WRITE", "cannot map a scratch file in", folder);
  return std::shared_ptr<Mapping>(new Mapping(static_cast<char*>(data), bytes));
}

Mapping::~Mapping() { ::munmap(data_, size_); }

void Mapping::release(const void* from, size_t bytes) const {
  const char* begin = std::max(static_cast<const char*>(from), static_cast<const char*>(data_));
  const char* end = std::min(static_cast<const char*>(from) + bytes, static_cast<const char*>(data_) + size_);
  if (begin >= end) return;
  // Whole pages inside the range only: a page at the edge may hold bytes that are still to be read.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  const uintptr_t last = reinterpret_cast<uintptr_t>(end) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

std::shared_ptr<Mapping> MappedWeights::file(const std::string& path) {
  auto& mapping = files_[path];
  if (!mapping) mapping = Mapping::of_file(path);
  return mapping;
}

void MappedWeights::release(const void* from, size_t bytes) const {
  for (const auto& [path, mapping] : files_) mapping->release(from, bytes);
  for (const auto& mapping : scratch_) mapping->release(from, bytes);
}

std::shared_ptr<Mapping> MappedWeights::scratch(int64_t bytes) {
  scratch_.push_back(Mapping::scratch(scratch_folder_, static_cast<size_t>(bytes)));
  return scratch_.back();
}

MappedWeights::Bytes MappedWeights::locate(const WeightSource& source, const std::string& where) {
  if (source.shape.empty() || source.shape.size() > 4) contradiction(where, "1 to 4 dimensions are expected");
  const int64_t expected = bytes_of(source.type, product(source.shape, where));
  if (expected <= 0) contradiction(where, text("type ", source.type, " is unknown or does not divide the shape"));
  if (expected != source.bytes)
    contradiction(where, text("expected ", expected, " bytes of ", source.type, ", got ", source.bytes));
  auto mapping = file(source.file);
  const auto size = static_cast<int64_t>(mapping->size());
  if (source.offset < 0 || source.offset > size || source.bytes > size - source.offset)
    contradiction(where, text("bytes ", source.offset, " to ", source.offset + source.bytes, " are not in ",
                              source.file, " of ", size, " bytes"));
  return {mapping, mapping->data() + source.offset, source.shape};
}

MappedWeights::Bytes MappedWeights::transposed(const WeightSource& source, const Bytes& from) {
  const int64_t rows = from.shape[0];
  const int64_t columns = from.shape[1];
  const auto options = at::TensorOptions().dtype(float_type(source.type));
  auto owner = scratch(source.bytes);
  const at::Tensor out = at::from_blob(owner->data(), {columns, rows}, options);
  // Rows of the source at a time, so that one of the two need never be in memory as a whole.
  const int64_t row_bytes = bytes_of(source.type, columns);
  const int64_t part = std::max<int64_t>(1, kPartBytes / row_bytes);
  for (int64_t first = 0; first < rows; first += part) {
    const int64_t count = std::min(part, rows - first);
    char* in = const_cast<char*>(from.at) + first * row_bytes;
    out.narrow(1, first, count).copy_(at::from_blob(in, {count, columns}, options).t());
    from.owner->release(in, static_cast<size_t>(count * row_bytes));
  }
  owner->release(owner->data(), owner->size());
  return {owner, owner->data(), {columns, rows}};
}

MappedWeights::Bytes MappedWeights::in_half_order(const WeightSource& source, const Bytes& from, int64_t row_bytes,
                                                  const std::string& where) {
  const int64_t rows = from.shape[0];
  if (rows % (2 * source.rope_heads) != 0)
    contradiction(where, text(rows, " rows are not pairs of ", source.rope_heads, " heads"));
  auto owner = scratch(rows * row_bytes);
  undo_rope_order(from.at, owner->data(), rows, row_bytes, source.rope_heads);
  release(from.at, static_cast<size_t>(rows * row_bytes));
  owner->release(owner->data(), owner->size());
  return {owner, owner->data(), from.shape};
}

StoredWeight MappedWeights::stored_as(const std::string& type, const StoredWeight& weight, const std::string& where) {
  const int64_t bytes = restored_bytes(type, product(weight.shape, where));
  if (bytes <= 0) contradiction(where, text("cannot be stored as ", type));
  auto owner = scratch(bytes);
  restore(weight, type, where, owner->data(),
          [&](const char* from, size_t from_bytes, const char* to, size_t to_bytes) {
            release(from, from_bytes);
            owner->release(to, to_bytes);
            if (restored_) restored_(static_cast<int64_t>(from_bytes));
          });
  return view_of(owner, owner->data(), type, weight.shape, bytes);
}

StoredWeight MappedWeights::open(const WeightSource& source, const std::string& where) {
  const Key key{source.file,       source.offset,    source.type, source.transpose,
                source.rope_heads, source.row_start, source.rows, source.store};
  if (auto found = opened_.find(key); found != opened_.end()) return found->second;

  const int64_t elements = product(source.shape, where);
  Bytes bytes = locate(source, where);
  if (source.transpose) {
    if (!is_float_type(source.type) || bytes.shape.size() != 2)
      contradiction(where, "only F32, F16 and BF16 matrices can be transposed");
    bytes = transposed(source, bytes);
  }
  std::vector<int64_t>& shape = bytes.shape;
  const int64_t row_bytes = shape.size() == 1 ? bytes_of(source.type, 1) : bytes_of(source.type, elements / shape[0]);
  const int64_t rows = source.rows < 0 ? shape[0] - source.row_start : source.rows;
  if (rows != shape[0] || source.rope_heads > 0) {
    if (row_bytes <= 0) contradiction(where, text("rows of ", source.type, " are not whole blocks"));
    if (source.row_start < 0 || rows <= 0 || source.row_start + rows > shape[0])
      contradiction(where, text("rows ", source.row_start, " to ", source.row_start + rows, " of ", shape[0]));
    bytes.at += source.row_start * row_bytes;
    shape[0] = rows;
  }
  const int64_t total = row_bytes > 0 ? rows * row_bytes : source.bytes;
  if (source.rope_heads > 0) bytes = in_half_order(source, bytes, row_bytes, where);

  StoredWeight weight = view_of(bytes.owner, bytes.at, source.type, bytes.shape, total);
  if (!source.store.empty() && source.store != source.type) {
    weight = stored_as(source.store, weight, where);
    std::erase(scratch_, bytes.owner);  // what was turned or reordered on the way
  }
  opened_.emplace(key, weight);
  return weight;
}

}  // namespace chatspace

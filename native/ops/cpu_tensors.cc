// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu_tensors.h"

namespace chatspace {

bool element_type(const at::Tensor& tensor, ElementType* type) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      *type = ElementType::kFloat32;
      return true;
    case at::kBFloat16:
      *type = ElementType::kBFloat16;
      return true;
    case at::kHalf:
      *type = ElementType::kFloat16;
      return true;
    default:
      return false;
  }
}

ElementType element_type_of(const at::Tensor& tensor, const char* what) {
  ElementType type = ElementType::kFloat32;
  TORCH_CHECK(element_type(tensor, &type), "chatspace: ", what, " must be float32, bfloat16 or float16, got ",
              tensor.scalar_type());
  return type;
}

void check_cpu(const at::Tensor& tensor, const char* what) {
  TORCH_CHECK(tensor.defined() && tensor.device().is_cpu(), "chatspace: ", what, " must be a CPU tensor");
}

at::Tensor rows_of(const at::Tensor& x, const char* what) {
  check_cpu(x, what);
  TORCH_CHECK(x.dim() == 2, "chatspace: ", what, " must be [rows, width], got ", x.sizes());
  return x.scalar_type() == at::kFloat ? x.contiguous() : x.to(at::kFloat).contiguous();
}

at::Tensor int32_rows(const at::Tensor& t, int64_t rows, const char* what) {
  check_cpu(t, what);
  TORCH_CHECK(t.dim() == 1 && t.size(0) == rows && t.scalar_type() == at::kInt, "chatspace: ", what, " must be [",
              rows, "] int32, got ", t.sizes(), " ", t.scalar_type());
  return t.contiguous();
}

at::Tensor float_vector(const OptionalTensor& vector, int64_t n, const char* what) {
  if (!vector.has_value() || !vector->defined()) return {};
  check_cpu(*vector, what);
  TORCH_CHECK(vector->dim() == 1 && vector->size(0) == n, "chatspace: ", what, " must be [", n, "], got ",
              vector->sizes());
  return vector->to(at::kFloat).contiguous();
}

at::Tensor norm_parameter(const at::Tensor& parameter, int64_t n, const char* what) {
  check_cpu(parameter, what);
  TORCH_CHECK(parameter.dim() == 1 && parameter.size(0) == n, "chatspace: ", what, " must be [", n, "], got ",
              parameter.sizes());
  ElementType type;
  return element_type(parameter, &type) ? parameter.contiguous() : parameter.to(at::kFloat).contiguous();
}

ElementType matrix_type(const at::Tensor& weight, const char* what, int64_t* width) {
  check_cpu(weight, what);
  TORCH_CHECK(weight.dim() == 2, "chatspace: ", what, " must have two dimensions, got ", weight.sizes());
  ElementType type = ElementType::kFloat32;
  if (element_type(weight, &type)) {
    *width = weight.size(1);
    return type;
  }
  switch (weight.scalar_type()) {
    case kQ8_0Tag: type = ElementType::kQ8_0; break;
    case kQ4_0Tag: type = ElementType::kQ4_0; break;
    case kQ4_1Tag: type = ElementType::kQ4_1; break;
    case kQ8_0PlanesTag: type = ElementType::kQ8_0Planes; break;
    case kQ4_0PlanesTag: type = ElementType::kQ4_0Planes; break;
    case kQ4_1PlanesTag: type = ElementType::kQ4_1Planes; break;
    default: TORCH_CHECK(false, "chatspace: ", what, " must be float32, bfloat16 or float16, or blocks, got ",
                         weight.scalar_type());
  }
  const int64_t bytes = weight.size(1) * static_cast<int64_t>(weight.element_size());
  TORCH_CHECK(bytes % block_bytes(type) == 0, "chatspace: a row of ", what, " is ", bytes, " bytes, no whole blocks of ",
              block_bytes(type));
  *width = bytes / block_bytes(type) * kQuantBlock;
  return type;
}

at::Tensor empty_rows(int64_t rows, int64_t width) {
  return at::empty({rows, width}, at::TensorOptions().dtype(at::kFloat));
}

}  // namespace chatspace

# SPDX-License-Identifier: Apache-2.0
# The CUDA half: chatspace_cuda.so, opened by the addon when a CUDA device is asked for. It links the
# CUDA libtorch and libcudart, never the addon. nvcc is called by itself instead of through
# enable_language(CUDA): that demands a whole toolkit with a linkable runtime, while the compiler from
# NVIDIA's wheels, which is all a build machine needs, has neither.
#
#   CHATSPACE_NVCC          nvcc (a toolkit's or a wheel's); scripts/build-cuda.mjs finds or gets it
#   CHATSPACE_CUDA_RUNTIME  folder with libcudart.so.*
#   CHATSPACE_CUDA_ARCHS    compute capabilities without dot, for example "80;90"; the last also as PTX
set(CHATSPACE_NVCC "" CACHE FILEPATH "nvcc")
set(CHATSPACE_CUDA_RUNTIME "" CACHE PATH "Folder with libcudart.so.*")
set(CHATSPACE_CUDA_ARCHS "80;90" CACHE STRING "Compute capabilities to compile for")

if(NOT CHATSPACE_NVCC)
  find_program(CHATSPACE_NVCC_FOUND nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin REQUIRED)
  set(CHATSPACE_NVCC "${CHATSPACE_NVCC_FOUND}")
endif()
get_filename_component(cuda_root "${CHATSPACE_NVCC}" REALPATH)
get_filename_component(cuda_root "${cuda_root}" DIRECTORY)
get_filename_component(cuda_root "${cuda_root}" DIRECTORY)
set(cuda_include "${cuda_root}/include")
if(NOT EXISTS "${cuda_include}/cuda_runtime_api.h")
  message(FATAL_ERROR "CUDA: ${cuda_include}/cuda_runtime_api.h is missing; run `npm run build:cuda`.")
endif()
foreach(library torch_cuda c10_cuda)
  if(NOT EXISTS "${LIBTORCH_DIR}/lib/lib${library}.so")
    message(FATAL_ERROR
      "CUDA: ${LIBTORCH_DIR}/lib/lib${library}.so is missing: this libtorch is the CPU half.\n"
      "Run `node scripts/fetch-libtorch.mjs --cuda`.")
  endif()
  add_library(${library} SHARED IMPORTED)
  set_target_properties(${library} PROPERTIES IMPORTED_LOCATION "${LIBTORCH_DIR}/lib/lib${library}.so")
endforeach()
file(GLOB cudart_files "${CHATSPACE_CUDA_RUNTIME}/libcudart.so.*" "${LIBTORCH_DIR}/lib/libcudart.so.*"
     "${cuda_root}/lib64/libcudart.so.*" "${cuda_root}/lib/libcudart.so.*")
if(NOT cudart_files)
  message(FATAL_ERROR "CUDA: no libcudart.so.* in CHATSPACE_CUDA_RUNTIME, libtorch or beside nvcc.")
endif()
list(GET cudart_files 0 cudart)

set(arch_flags "")
foreach(arch IN LISTS CHATSPACE_CUDA_ARCHS)
  list(APPEND arch_flags -gencode "arch=compute_${arch},code=sm_${arch}")
endforeach()
list(GET CHATSPACE_CUDA_ARCHS -1 newest_arch)
list(APPEND arch_flags -gencode "arch=compute_${newest_arch},code=compute_${newest_arch}")

# No fast math: parity with the CPU is promised. --fmad is nvcc's default and only adds precision.
set(nvcc_flags -std=c++20 -O3 "-I${CMAKE_CURRENT_SOURCE_DIR}/native" ${arch_flags}
    -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra)
if(CHATSPACE_WERROR)
  list(APPEND nvcc_flags --Werror all-warnings)
endif()

file(GLOB kernel_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/kernels/cuda/*.cu")
set(kernel_objects "")
file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/kernels")
foreach(source IN LISTS kernel_sources)
  get_filename_component(name "${source}" NAME_WE)
  set(object "${CMAKE_BINARY_DIR}/kernels/${name}.o")
  add_custom_command(
    OUTPUT "${object}"
    COMMAND "${CHATSPACE_NVCC}" ${nvcc_flags} -MD -MT "${object}" -MF "${object}.d" -c "${source}" -o "${object}"
    DEPENDS "${source}"
    DEPFILE "${object}.d"
    COMMENT "nvcc ${name}.cu"
    VERBATIM)
  list(APPEND kernel_objects "${object}")
endforeach()

file(GLOB backend_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/ops/cuda/*.cc")
add_library(chatspace_cuda MODULE EXCLUDE_FROM_ALL ${backend_sources} ${kernel_objects})
target_include_directories(chatspace_cuda SYSTEM PRIVATE "${cuda_include}")
target_link_libraries(chatspace_cuda PRIVATE chatspace_options torch_cuda c10_cuda torch_cpu c10 "${cudart}")
target_precompile_headers(chatspace_cuda PRIVATE <ATen/ATen.h>)
set_target_properties(chatspace_cuda PROPERTIES
  PREFIX "" SUFFIX ".so"
  LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/out"
  BUILD_WITH_INSTALL_RPATH ON
  INSTALL_RPATH_USE_LINK_PATH OFF
  # From build/cuda and prebuilds/<platform>-<arch>; usually libtorch is in the process already.
  INSTALL_RPATH "$ORIGIN/../../vendor/libtorch/lib")
# libtorch_cuda needs cuBLAS, cuDNN and more, which a build machine may lack: they are its own affair.
# What *we* leave undefined is still an error.
target_link_options(chatspace_cuda PRIVATE
  -Wl,--no-undefined -Wl,--allow-shlib-undefined -Wl,--no-as-needed -Wl,-z,nodelete -Wl,--exclude-libs,ALL
  "-Wl,-rpath-link,${LIBTORCH_DIR}/lib")

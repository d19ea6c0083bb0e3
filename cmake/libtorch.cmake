# SPDX-License-Identifier: Apache-2.0
# Locates libtorch and makes the imported targets `torch_cpu` and `c10`. TorchConfig.cmake is not used
# on purpose: of a CUDA build it demands the CUDA toolkit, cuDNN and every NVIDIA wheel, while the CPU
# half (libtorch_cpu + libc10) compiles and links alone.
#
# Result: targets torch_cpu, c10; variables LIBTORCH_DIR, LIBTORCH_VERSION.
set(LIBTORCH_DIR "$ENV{CHATSPACE_LIBTORCH}" CACHE PATH "Folder with include/ and lib/ of libtorch")
if(NOT LIBTORCH_DIR)
  set(LIBTORCH_DIR "${CMAKE_CURRENT_SOURCE_DIR}/vendor/libtorch")
endif()

# Versions this code was compiled and run with. A newer one may work: -DCHATSPACE_ANY_LIBTORCH=ON.
set(CHATSPACE_LIBTORCH_MIN 2.11)
set(CHATSPACE_LIBTORCH_MAX 2.15)
option(CHATSPACE_ANY_LIBTORCH "Accept a libtorch outside the tested versions" OFF)

foreach(needed include/torch/script.h lib/libtorch_cpu.so lib/libc10.so)
  if(NOT EXISTS "${LIBTORCH_DIR}/${needed}")
    message(FATAL_ERROR
      "libtorch: ${LIBTORCH_DIR}/${needed} is missing.\n"
      "Run `node scripts/fetch-libtorch.mjs`, or name an unpacked libtorch with CHATSPACE_LIBTORCH.")
  endif()
endforeach()

# The headers say what they are; a build-version file only says what somebody wrote into it.
set(LIBTORCH_VERSION "")
foreach(header torch/version.h torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
  if(NOT LIBTORCH_VERSION AND EXISTS "${LIBTORCH_DIR}/include/${header}")
    file(STRINGS "${LIBTORCH_DIR}/include/${header}" lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    if(lines MATCHES "MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+)")
      set(LIBTORCH_VERSION "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}.${CMAKE_MATCH_3}")
    endif()
  endif()
endforeach()
if(NOT LIBTORCH_VERSION)
  message(FATAL_ERROR "libtorch: no version found in the headers under ${LIBTORCH_DIR}/include")
endif()
string(REGEX MATCH "^[0-9]+\\.[0-9]+" minor_version "${LIBTORCH_VERSION}")
if((minor_version VERSION_LESS CHATSPACE_LIBTORCH_MIN OR minor_version VERSION_GREATER CHATSPACE_LIBTORCH_MAX)
   AND NOT CHATSPACE_ANY_LIBTORCH)
  message(FATAL_ERROR
    "libtorch: expected version ${CHATSPACE_LIBTORCH_MIN} to ${CHATSPACE_LIBTORCH_MAX}, "
    "got ${LIBTORCH_VERSION} in ${LIBTORCH_DIR}.\n"
    "Run `node scripts/fetch-libtorch.mjs --force`, or configure with -DCHATSPACE_ANY_LIBTORCH=ON at your own risk.")
endif()
message(STATUS "libtorch ${LIBTORCH_VERSION} in ${LIBTORCH_DIR}")

foreach(library torch_cpu c10)
  add_library(${library} SHARED IMPORTED)
  set_target_properties(${library} PROPERTIES
    IMPORTED_LOCATION "${LIBTORCH_DIR}/lib/lib${library}.so"
    INTERFACE_INCLUDE_DIRECTORIES
      "${LIBTORCH_DIR}/include;${LIBTORCH_DIR}/include/torch/csrc/api/include"
    # Every supported libtorch is built with the C++11 ABI of libstdc++.
    INTERFACE_COMPILE_DEFINITIONS "_GLIBCXX_USE_CXX11_ABI=1")
endforeach()
set_property(TARGET torch_cpu APPEND PROPERTY INTERFACE_LINK_LIBRARIES c10)

# SPDX-License-Identifier: Apache-2.0
# One object library a folder of native/, with its include rules, its warnings, the instruction-set
# variants of the kernels and the precompiled header that keeps a torch file at a few seconds.
find_package(Threads REQUIRED)
find_program(CHATSPACE_CCACHE ccache)
if(CHATSPACE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros
      "${CHATSPACE_CCACHE}")
endif()

add_library(chatspace_options INTERFACE)
target_include_directories(chatspace_options INTERFACE "${CMAKE_CURRENT_SOURCE_DIR}/native")
target_compile_options(chatspace_options INTERFACE -Wall -Wextra $<$<BOOL:${CHATSPACE_WERROR}>:-Werror>)
# What ccache asks for of GCC when a precompiled header is used.
if(CHATSPACE_CCACHE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(chatspace_options INTERFACE -fpch-preprocess)
endif()

# Files ending in these are compiled for more than the baseline and chosen at run time by cpuid.
set(isa_avx2 -mavx2 -mfma -mf16c)
set(isa_avx512 ${isa_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq)
set(isa_avx512vnni ${isa_avx512} -mavx512vnni)
set(isa_avx512bf16 ${isa_avx512} -mavx512bf16)
set(isa_amx ${isa_avx512bf16} -mavx512vnni -mamx-tile -mamx-int8 -mamx-bf16)

function(chatspace_isa_options out_sources)
  set(kept "")
  foreach(source IN LISTS ARGN)
    if(source MATCHES "_(avx2|avx512|avx512vnni|avx512bf16|amx)\\.cc$")
      set(isa ${CMAKE_MATCH_1})
      if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        continue()
      endif()
      set_property(SOURCE "${source}" APPEND PROPERTY COMPILE_OPTIONS ${isa_${isa}})
      set_property(SOURCE "${source}" PROPERTY SKIP_PRECOMPILE_HEADERS ON)
    endif()
    # Weights must come out bit-equal to the reference: a * b + c is two roundings there.
    if(source MATCHES "/kernels/dequant[^/]*\\.cc$")
      set_property(SOURCE "${source}" APPEND PROPERTY COMPILE_OPTIONS -ffp-contract=off)
    endif()
    list(APPEND kept "${source}")
  endforeach()
  set(${out_sources} "${kept}" PARENT_SCOPE)
endfunction()

# The one precompiled header, shared by all torch folders (they compile with the same options).
file(WRITE "${CMAKE_BINARY_DIR}/precompiled.cc.in" "// Carries the precompiled header of the torch folders.\n")
configure_file("${CMAKE_BINARY_DIR}/precompiled.cc.in" "${CMAKE_BINARY_DIR}/precompiled.cc" COPYONLY)
add_library(chatspace_precompiled OBJECT "${CMAKE_BINARY_DIR}/precompiled.cc")
target_link_libraries(chatspace_precompiled PRIVATE chatspace_options torch_cpu)
target_precompile_headers(chatspace_precompiled PRIVATE <torch/script.h>)

# chatspace_folder(NAME [TORCH] [NAPI]): native/NAME/*.cc as the object library chatspace_NAME.
# A folder without sources makes no target. CHATSPACE_FOLDERS collects the targets made.
set(CHATSPACE_FOLDERS "")
function(chatspace_folder name)
  cmake_parse_arguments(arg "TORCH;NAPI" "" "" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/${name}/*.cc")
  chatspace_isa_options(sources ${sources})
  if(NOT sources)
    return()
  endif()
  set(target chatspace_${name})
  add_library(${target} OBJECT ${sources})
  target_link_libraries(${target} PRIVATE chatspace_options Threads::Threads)
  if(arg_TORCH)
    target_link_libraries(${target} PRIVATE torch_cpu)
    target_precompile_headers(${target} REUSE_FROM chatspace_precompiled)
  endif()
  if(arg_NAPI)
    target_link_libraries(${target} PRIVATE chatspace_napi)
  endif()
  set(CHATSPACE_FOLDERS ${CHATSPACE_FOLDERS} ${target} PARENT_SCOPE)
endfunction()

# Node-API headers; only what links this may include napi.h. CMAKE_JS_INC comes from cmake-js.
add_library(chatspace_napi INTERFACE)
target_include_directories(chatspace_napi SYSTEM INTERFACE ${CMAKE_JS_INC})
target_compile_definitions(chatspace_napi INTERFACE
  NAPI_VERSION=9
  NODE_ADDON_API_CPP_EXCEPTIONS
  NODE_ADDON_API_CPP_EXCEPTIONS_ALL
  NODE_ADDON_API_DISABLE_DEPRECATED
  NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS)

chatspace_folder(kernels)
chatspace_folder(ops TORCH)
chatspace_folder(archive TORCH)
chatspace_folder(decoder TORCH)
chatspace_folder(steering TORCH)
chatspace_folder(learning TORCH)
chatspace_folder(engine TORCH)

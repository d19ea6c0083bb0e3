# SPDX-License-Identifier: Apache-2.0
# The addon chatspace_steer.node and the small chatspace_preload.node.
#
# chatspace_preload has no dependency but libc: the loader uses it to open a libtorch that lies
# elsewhere than at the addon's relative rpath (user cache, CHATSPACE_LIBTORCH), after which the
# addon's DT_NEEDED entries are satisfied by what is already in the process.
file(READ "${CMAKE_CURRENT_SOURCE_DIR}/package.json" package_json)
string(JSON CHATSPACE_VERSION GET "${package_json}" version)

function(chatspace_node_module target)
  set_target_properties(${target} PROPERTIES
    PREFIX "" SUFFIX ".node"
    LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/out"
    BUILD_WITH_INSTALL_RPATH ON
    INSTALL_RPATH_USE_LINK_PATH OFF)
  # nodelete: libtorch and our thread-locals must not be unmapped when a worker's environment ends.
  target_link_options(${target} PRIVATE -Wl,-z,nodelete -Wl,--exclude-libs,ALL)
endfunction()

file(GLOB preload_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/preload/*.cc")
add_library(chatspace_preload MODULE ${preload_sources})
target_link_libraries(chatspace_preload PRIVATE chatspace_options chatspace_napi ${CMAKE_DL_LIBS})
chatspace_node_module(chatspace_preload)

file(GLOB addon_source CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/addon.cc")
if(addon_source)
  chatspace_folder(bindings TORCH NAPI)
  add_library(chatspace_steer MODULE ${addon_source})
  target_link_libraries(chatspace_steer PRIVATE
    chatspace_options chatspace_napi ${CHATSPACE_FOLDERS} torch_cpu c10 Threads::Threads ${CMAKE_DL_LIBS})
  target_precompile_headers(chatspace_steer REUSE_FROM chatspace_precompiled)
  chatspace_node_module(chatspace_steer)
  # Both build/Release/ and prebuilds/<platform>-<arch>/ lie two levels below the package's root.
  set_target_properties(chatspace_steer PROPERTIES INSTALL_RPATH "$ORIGIN/../../vendor/libtorch/lib")
  if(TARGET chatspace_bindings)
    target_compile_definitions(chatspace_bindings PRIVATE
      CHATSPACE_VERSION="${CHATSPACE_VERSION}" CHATSPACE_TORCH_VERSION="${LIBTORCH_VERSION}")
  endif()
  target_compile_definitions(chatspace_steer PRIVATE
    CHATSPACE_VERSION="${CHATSPACE_VERSION}" CHATSPACE_TORCH_VERSION="${LIBTORCH_VERSION}")
else()
  message(WARNING "native/addon.cc is missing: only the folders are built")
endif()

# SPDX-License-Identifier: Apache-2.0
# native/tests/*.cc as one executable, run by `npm run test:native-cc`. It sees everything but napi.
file(GLOB test_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/tests/*.cc")
if(test_sources)
  add_executable(chatspace_tests ${test_sources})
  set(tested ${CHATSPACE_FOLDERS})
  list(REMOVE_ITEM tested chatspace_bindings)
  target_link_libraries(chatspace_tests PRIVATE
    chatspace_options ${tested} torch_cpu c10 Threads::Threads ${CMAKE_DL_LIBS})
  # Only the tests know an absolute path: they never leave this machine.
  set_target_properties(chatspace_tests PROPERTIES BUILD_RPATH "${LIBTORCH_DIR}/lib")
  target_link_options(chatspace_tests PRIVATE "-Wl,-rpath-link,${LIBTORCH_DIR}/lib")
endif()

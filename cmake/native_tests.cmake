# SPDX-License-Identifier: Apache-2.0
# native/tests/*.cc as one executable, run by `npm run test:native-cc`. It sees everything but napi.
file(GLOB test_sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/tests/*.cc")
chatspace_isa_options(test_sources ${test_sources})
if(test_sources)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    # Emulated instructions round what the real ones round.
    set_property(SOURCE "${CMAKE_CURRENT_SOURCE_DIR}/native/tests/emulated_avx512_avx2.cc"
                 APPEND PROPERTY COMPILE_OPTIONS -ffp-contract=off)
  endif()
  add_executable(chatspace_tests ${test_sources})
  set(tested ${CHATSPACE_FOLDERS})
  list(REMOVE_ITEM tested chatspace_bindings)
  target_link_libraries(chatspace_tests PRIVATE
    chatspace_options ${tested} torch_cpu c10 Threads::Threads ${CMAKE_DL_LIBS})
  # Only the tests know absolute paths: they never leave this machine.
  target_compile_definitions(chatspace_tests PRIVATE CHATSPACE_SOURCE="${CMAKE_CURRENT_SOURCE_DIR}")
  set_target_properties(chatspace_tests PROPERTIES BUILD_RPATH "${LIBTORCH_DIR}/lib")
  target_link_options(chatspace_tests PRIVATE "-Wl,-rpath-link,${LIBTORCH_DIR}/lib")
endif()

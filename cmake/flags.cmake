# Compiler and linker flags. Warnings are errors everywhere; what differs between presets is how the
# program is checked (sanitizers) or hardened (release).
option(UNDERSEER_SANITIZE "AddressSanitizer and UndefinedBehaviorSanitizer" OFF)
option(UNDERSEER_TSAN "ThreadSanitizer" OFF)
option(UNDERSEER_HARDEN "Hardening flags of the release build" OFF)
option(UNDERSEER_COVERAGE "Line coverage" OFF)
option(UNDERSEER_FUZZ "Build the libFuzzer targets (clang only)" OFF)
option(UNDERSEER_BENCH "Build the benchmarks" OFF)

add_library(underseer_flags INTERFACE)
target_include_directories(underseer_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_definitions(underseer_flags INTERFACE UNDERSEER_VERSION="${PROJECT_VERSION}")
target_compile_options(underseer_flags INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wconversion -Wsign-conversion -Wcast-align -Wnon-virtual-dtor
  -Woverloaded-virtual -Wimplicit-fallthrough -Wformat=2 -fno-strict-aliasing -Wno-missing-field-initializers
  -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
# At link time too: there the optimiser writes the debug information.
target_link_options(underseer_flags INTERFACE -ffile-prefix-map=${CMAKE_SOURCE_DIR}/=)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  if(CMAKE_UNITY_BUILD)
    # It takes what stands in a .cpp for a header's, where an anonymous namespace would be wrong.
    target_compile_options(underseer_flags INTERFACE -Wno-subobject-linkage)
  endif()
  # GCC 12's flow-based warnings misfire on std::expected and fmt under sanitizers and -O2.
  target_compile_options(underseer_flags INTERFACE -Wduplicated-cond -Wlogical-op -Wno-maybe-uninitialized
    -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread -Wno-restrict -Wno-dangling-pointer)
  target_link_options(underseer_flags INTERFACE -Wno-stringop-overflow)  # LTO looks again there
endif()

if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # libstdc++ 12's own std::stable_sort uses what it marks as deprecated.
  target_compile_options(underseer_flags INTERFACE -Wno-deprecated-declarations)
endif()

if(UNDERSEER_SANITIZE)
  # Not vptr: its run-time probes memory through a pipe, which a jailed worker cannot have.
  target_compile_options(underseer_flags INTERFACE -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(underseer_flags INTERFACE -fsanitize=address,undefined)
  target_compile_definitions(underseer_flags INTERFACE UNDERSEER_SANITIZED=1)
endif()
if(UNDERSEER_TSAN)
  target_compile_options(underseer_flags INTERFACE -fsanitize=thread)
  target_link_options(underseer_flags INTERFACE -fsanitize=thread)
  target_compile_definitions(underseer_flags INTERFACE UNDERSEER_SANITIZED=1)
endif()
if(UNDERSEER_FUZZ)
  target_compile_options(underseer_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(UNDERSEER_HARDEN)
  target_compile_options(underseer_flags INTERFACE -D_FORTIFY_SOURCE=2 -D_GLIBCXX_ASSERTIONS
    -fstack-protector-strong -fstack-clash-protection -fcf-protection=full)
  target_link_options(underseer_flags INTERFACE -Wl,-z,relro,-z,now,-z,noexecstack -pie)
endif()
if(UNDERSEER_COVERAGE)
  target_compile_options(underseer_flags INTERFACE --coverage)
  target_link_options(underseer_flags INTERFACE --coverage)
endif()

# find_package(Kinglet) defines the targets kinglet::kinglet (shared) and kinglet::static.
get_filename_component(_kinglet_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET kinglet::kinglet)
  add_library(kinglet::kinglet SHARED IMPORTED)
  set_target_properties(kinglet::kinglet PROPERTIES
    IMPORTED_LOCATION "${_kinglet_prefix}/lib/${CMAKE_SHARED_LIBRARY_PREFIX}kinglet${CMAKE_SHARED_LIBRARY_SUFFIX}"
    INTERFACE_INCLUDE_DIRECTORIES "${_kinglet_prefix}/include")
endif()
if(NOT TARGET kinglet::static AND EXISTS "${_kinglet_prefix}/lib/libkinglet.a")
  add_library(kinglet::static STATIC IMPORTED)
  set_target_properties(kinglet::static PROPERTIES
    IMPORTED_LOCATION "${_kinglet_prefix}/lib/libkinglet.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_kinglet_prefix}/include")
  if(APPLE)
    set_property(TARGET kinglet::static PROPERTY INTERFACE_LINK_LIBRARIES
      "-framework Metal" "-framework QuartzCore" "-framework Foundation" "-framework CoreFoundation" iconv)
  elseif(UNIX)
    # Rust's standard library needs these: gcc_s unwinds when a panic is caught.
    include(CMakeFindDependencyMacro)
    find_dependency(Threads)
    set_property(TARGET kinglet::static PROPERTY INTERFACE_LINK_LIBRARIES gcc_s Threads::Threads m ${CMAKE_DL_LIBS})
  endif()
endif()

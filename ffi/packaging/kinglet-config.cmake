# find_package(kinglet) gives the targets kinglet::kinglet (shared) and kinglet::static.
get_filename_component(_kinglet_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET kinglet::kinglet)
  find_library(_kinglet_shared kinglet PATHS "${_kinglet_prefix}/lib" NO_DEFAULT_PATH)
  add_library(kinglet::kinglet SHARED IMPORTED)
  set_target_properties(kinglet::kinglet PROPERTIES
    IMPORTED_LOCATION "${_kinglet_shared}"
    INTERFACE_INCLUDE_DIRECTORIES "${_kinglet_prefix}/include")
  if(EXISTS "${_kinglet_prefix}/lib/libkinglet.a")
    add_library(kinglet::static STATIC IMPORTED)
    set_target_properties(kinglet::static PROPERTIES
      IMPORTED_LOCATION "${_kinglet_prefix}/lib/libkinglet.a"
      INTERFACE_INCLUDE_DIRECTORIES "${_kinglet_prefix}/include")
    if(UNIX)
      find_package(Threads REQUIRED)
      set_property(TARGET kinglet::static PROPERTY INTERFACE_LINK_LIBRARIES Threads::Threads m ${CMAKE_DL_LIBS})
    endif()
  endif()
endif()
set(kinglet_FOUND TRUE)

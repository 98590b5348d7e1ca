/* The installed header, by the include path that pkg-config gives. */
#include <kinglet.h>

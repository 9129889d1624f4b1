// A plug-in of another version. None of its code may run.
#include <cstdlib>

#include "policies/plugin.h"

EVICTSIM_PLUGIN

namespace {

struct EndsTheProgram {
  EndsTheProgram() { std::abort(); }
};
const EndsTheProgram ends_the_program;

}  // namespace

// A shared object that does not say that it is a plug-in. None of its code may run.
#include <cstdlib>

namespace {

struct EndsTheProgram {
  EndsTheProgram() { std::abort(); }
};
const EndsTheProgram ends_the_program;

}  // namespace

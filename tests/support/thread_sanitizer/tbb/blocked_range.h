#pragma once
/// \file
/// See parallel_for.h.

#include <tbb/parallel_for.h>

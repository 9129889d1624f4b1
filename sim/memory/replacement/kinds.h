#pragma once
/// \file
/// The policies that this folder defines, one a file. Internal to sim/memory/.

#include "sim/memory/replacement_kind.h"

namespace evictsim::sim::replacement {

const ReplacementKind& lru();
const ReplacementKind& fifo();
const ReplacementKind& lfu();
const ReplacementKind& clock();
const ReplacementKind& sieve();
const ReplacementKind& s3fifo();
const ReplacementKind& arc();
const ReplacementKind& two_queue();
const ReplacementKind& gdsf();
const ReplacementKind& belady();

}  // namespace evictsim::sim::replacement

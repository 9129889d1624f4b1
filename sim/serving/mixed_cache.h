#pragma once
/// \file
/// An eviction policy in a model some of whose layers keep little by themselves.

#include <memory>

#include "models/llm.h"
#include "sim/serving/resident_cache.h"

namespace evictsim::sim {

/// Bytes of keys and values per token of layers that keep every token and read all of them, over those of all layers.
double evictable_share(const models::Llm& llm);

/// `evicting` in those layers; sliding windows and linear layers stay as they are, as engines leave them to the model.
/// `evicting` itself where nothing else keeps tokens. Throws Error(invalid_argument) where no layer keeps everything,
/// and for sparse attention with an indexer, which chooses by itself what is read.
std::shared_ptr<const ResidentCache> mixed_cache(const models::Llm& llm, std::shared_ptr<const ResidentCache> evicting);

}  // namespace evictsim::sim

#pragma once
/// \file
/// Choosing blocks of a cache to evict, as OpenVINO GenAI's cache eviction does (docs/policies/openvino.md).

#include <span>
#include <string>
#include <vector>

#include "models/matrix.h"

namespace evictsim::policies {

/// Places of the `count` blocks of lowest score, ascending; of equal scores the earlier block.
std::vector<models::Index> weakest_blocks(std::span<const double> block_scores, models::Index count);

/// KVCrush: of the blocks in `evicted` (ascending), `count` that stay after all. A token's bit says whether it is among
/// the better half of `token_scores` (the evictable tokens, whole blocks of `anchor.size()`); the evicted blocks are
/// sorted by the Hamming distance of their bits to `anchor` and taken at even steps. Of equals the earlier goes first.
std::vector<models::Index> crush_representatives(std::span<const double> token_scores, std::span<const int> anchor,
                                                 const std::vector<models::Index>& evicted, models::Index count);
/// The bit pattern that the majority of blocks has at every place; 0 at a tie.
std::vector<int> mean_pattern(std::span<const double> token_scores, models::Index block);

/// Adaptive R-KV: which blocks go so that `keep` stay, ascending. The best by score stay until they hold `mass` of the
/// sum or `keep` is reached; the rest is filled up with those of the others whose keys resemble the others' least: by
/// the sum of cosines, mean over heads, without a key's with itself and those below the mean of its row. `keys_by_head`
/// are the keys of the blocks, [blocks * block, d].
std::vector<models::Index> adaptive_blocks_to_evict(std::span<const double> block_scores,
                                                    std::span<const models::MatrixView> keys_by_head,
                                                    models::Index keep, double mass);

}  // namespace evictsim::policies

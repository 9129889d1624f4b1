#include <fmt/format.h>

#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

std::string expand(const Parameters& parameters) {
  return fmt::format(
      "accumulated_attention(accumulate={},history={},recent={},signal={},normalise={},group=sum,kernel={},pool=max,"
      "allocator=whole_blocks(block={}),schedule={})",
      parameters.choice("queries") == "all" ? "all" : "since_window", parameters.word("window"),
      parameters.word("protected"), parameters.choice("metric") == "l2" ? "squared" : "probability",
      parameters.boolean("average") ? "queries" : "none", parameters.word("kernel"), parameters.word("block"),
      parameters.integer("every") == 0 ? "once()" : fmt::format("every(steps={})", parameters.word("every")));
}

const Registration registration(
    {.name = "kv_compress",
     .sentence = "Frees whole blocks of any head in any layer, by squared attention summed over the group.",
     .citation = "KV-Compress, arXiv 2410.00161; IsaacRe/vllm-kvcompress",
     .parameters = {integer_parameter("block", "16", 1, 65536, "entries per block of a head's cache"),
                    choice_parameter("queries", {"window", "all"},
                                     "of the prompt, whose attention counts: its last `window`, or every one"),
                    integer_parameter("window", "32", 1, 65536, "prompt queries for queries=window"),
                    integer_parameter("protected", "32", 0, 1e9, "newest tokens kept"),
                    choice_parameter("metric", {"l2", "l1"}, "sum of squared attention, or of attention"),
                    boolean_parameter("average", "false", "divide by the number of queries"), kernel_parameter("7"),
                    integer_parameter("every", "1", 0, 1e9,
                                      "decode steps between cuts after the prompt's; 0: the prompt only")},
     .make = ExpandPreset(expand),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies

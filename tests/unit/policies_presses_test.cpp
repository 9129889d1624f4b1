// Does every press of kvpress become the policy it means, or an error that says why not?
#include <algorithm>
#include <catch2/catch.hpp>

#include "policies/kvpress.h"
#include "policies/policy.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;

namespace {

void same(const std::string& press, const std::string& policy) {
  CAPTURE(press);
  CHECK(parse_policy("kvpress:" + press).expansion == parse_policy(policy).expansion);
}

void refuses(const std::string& press, ErrorCode code, const std::string& words) {
  CAPTURE(press);
  try {
    parse_policy("kvpress:" + press);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == code);
    CHECK_THAT(error.what(), Catch::Contains(words));
  }
}

}  // namespace

TEST_CASE("presses that score") {
  same("CURPress()", "cur");
  same("CURPress(num_sinks=2,leverage_type='kv_avg',use_local_approximation=False)",
       "cur(leverage=mean,local=false,sinks=2)");
  same("CapPress(tau=2.0,n_sink=8)", "cap(tau=2,sinks=8)");
  same("NonCausalAttnPress(chunk_size=64)", "noncausal_attention(chunk=64)");
  same("LeverageScorePress(sketch_dimension=32)", "leverage_score(sketch=32)");
  same("CompactorPress()", "compactor");
  same("CompactorPress(0.5, 4, 2, blending=0.35)", "compactor(sinks=4,recent=2,blending=0.35,budget=0.5)");
  same("QFilterPress()", "qfilter");
  same("FinchPress(window_size=16,rerotate_keys=False,chunk_length=96)", "finch(window=16,rerotate=false,chunk=96)");
  same("FinchPress()", "finch");
  same("SimLayerKVPress(0.9,n_recent=48)", "simlayerkv(threshold=0.9,recent=48)");
  same("KVzipPress(0.3,kvzip_plus_normalization=True)", "kvzip(plus=true,budget=0.7)");
  same("KVComposePress(structured=False,agg_task='mean')", "kvcompose(structured=false,task=mean)");
  refuses("CURPress(leverage_type='both')", ErrorCode::invalid_argument, "product | key | value | mean");
}

TEST_CASE("presses around presses") {
  same("CriticalKVPress(SnapKVPress(window_size=16),first_stage_ratio=0.25)",
       "criticalkv(snapkv(window=16),first_stage=0.25)");
  same("AdaKVPress(CriticalKVPress(KnormPress()))", "adakv(criticalkv(knorm()))");
  same("CriticalAdaKVPress(KnormPress(0.5),alpha_safeguard=0)", "criticaladakv(knorm(budget=0.5),alpha=0)");
  same("ChunkKVPress(SnapKVPress())", "chunkkv(snapkv())");
  same("ChunkKVPress(PyramidKVPress(),chunk_length=10)", "chunkkv(snapkv(),chunk=10)");
  same("ChunkPress(KeyDiffPress(),chunk_length=64)", "chunk(keydiff(),length=64)");
  same("BlockPress(KeyDiffPress(),block_size=32)", "block(keydiff(),size=32)");
  same("DMSPress(KnormPress(),threshold=-8.5,decoding=True)", "dms(knorm(),threshold=-8.5,decoding=true)");
  same("KeyRerotationPress(KnormPress())", "knorm(placement=rerotate())");
  same("PerLayerCompressionPress(KnormPress(0.1),[0.5, 0.25])", "knorm(allocator=layer_shares(removed='0.5 0.25'))");
  same("PrefillDecodingPress(prefilling_press=KnormPress(0.5))", "knorm(budget=0.5)");
  same("PrefillDecodingPress(decoding_press=DecodingPress(KnormPress(),4,144))",
       "knorm(schedule=every(steps=4,prompt=false),budget=144)");
  same("PrefillDecodingPress()", "full");
  same("CompressionRatioDecodingPress(KnormPress(),target_compression_ratio=0.25,compression_interval=8)",
       "knorm(allocator=seen_share(removed=0.25),schedule=every(steps=8,prompt=false))");
  same("CompressionRatioDecodingPress(AdaKVPress(KnormPress(),0.5))",
       "adakv(knorm(allocator=seen_share(removed=0.5)),alpha=0.5,schedule=every(steps=512,prompt=false))");
  same("CAMPress(KnormPress(),compression_interval=4,target_size=144,merge_budget=8)",
       "mean_over_heads(knorm(),placement=cam(merge_budget=8),schedule=every(steps=4,prompt=false),budget=144)");
  same("LUKVPress(window=2)", "lukv(recent=2)");
  same("LUKVPress(KnormPress(),compression_ratio=0.5)", "lukv(knorm(),budget=0.5)");
  same("ComposedPress([SnapKVPress(0.3), ThinKPress(0.5,16)])", "snapkv(budget=0.7)@think(ratio=0.5,window=16)");
  same("ComposedPress([KnormPress(0.5)])", "knorm(budget=0.5)");
}

TEST_CASE("what has no counterpart says why") {
  refuses("KVgradPress()", ErrorCode::unsupported, "gradients");
  refuses("RestoreKVPress()", ErrorCode::unsupported, "fine-tuned");
  refuses("ComposedPress([KnormPress(0.5),SnapKVPress(0.5)])", ErrorCode::unsupported, "one scorer and one budget");
  refuses("ComposedPress([])", ErrorCode::invalid_argument, "list of presses");
  refuses("PrefillDecodingPress(KnormPress(0.5),DecodingPress(KnormPress()))", ErrorCode::unsupported, "two presses");
  refuses("PrefillDecodingPress(None,KnormPress(0.5))", ErrorCode::invalid_argument, "DecodingPress");
  refuses("ExpectedAttentionStatsPress()", ErrorCode::unsupported, "stats_folder");
  refuses("PerLayerCompressionPress(KnormPress(),[0.5,KnormPress()])", ErrorCode::invalid_argument, "list of numbers");
  refuses("PerLayerCompressionPress(KnormPress(),0.5)", ErrorCode::invalid_argument, "list of numbers");
  refuses("DMSPress(KnormPress())", ErrorCode::invalid_argument, "must be given");
  refuses("ChunkKVPress(AdaKVPress(KnormPress()))", ErrorCode::invalid_argument, "wraps a press that scores");
  refuses("CAMPress(ChunkKVPress(KnormPress()))", ErrorCode::invalid_argument, "CAMPress wraps");
}

TEST_CASE("every class of kvpress 0.5.5 is mapped, but for those that need the model") {
  const std::vector<std::string> mapped = mapped_presses();
  for (const char* press : {"AdaKVPress",
                            "BlockPress",
                            "CAMPress",
                            "CURPress",
                            "CapPress",
                            "ChunkKVPress",
                            "ChunkPress",
                            "CompactorPress",
                            "ComposedPress",
                            "CompressionRatioDecodingPress",
                            "CriticalAdaKVPress",
                            "CriticalKVPress",
                            "DMSPress",
                            "DecodingPress",
                            "DuoAttentionPress",
                            "EntropyGatedChunkKVPress",
                            "ExpectedAttentionPress",
                            "ExpectedAttentionStatsPress",
                            "FastKVzipPress",
                            "FinchPress",
                            "KVComposePress",
                            "KVzapPress",
                            "KVzipPress",
                            "KeyDiffPress",
                            "KeyRerotationPress",
                            "KnormPress",
                            "LUKVPress",
                            "LagKVPress",
                            "LeverageScorePress",
                            "MergingPress",
                            "NonCausalAttnPress",
                            "ObservedAttentionPress",
                            "PerLayerCompressionPress",
                            "PrefillDecodingPress",
                            "PyramidKVPress",
                            "QFilterPress",
                            "RandomPress",
                            "SimLayerKVPress",
                            "SnapKVPress",
                            "StreamingLLMPress",
                            "TOVAPress",
                            "ThinKPress"}) {
    INFO(press);
    CHECK(std::binary_search(mapped.begin(), mapped.end(), press));
  }
  CHECK(mapped.size() == 42);
}

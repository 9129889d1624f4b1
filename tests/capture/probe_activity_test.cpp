// Do recorded kernels of an engine become the right times per step?
#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "traces/capture/probe/activity.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::traces::capture;

namespace {

void add(std::vector<KernelRecord>& records, const std::string& name, std::int64_t start, std::int64_t end,
         int device = 0) {
  KernelRecord& record = records.emplace_back();
  record.device = device;
  record.name = name;
  record.start = start;
  record.end = end;
}

/// A step of an engine: two layers of product, attention and all-reduce, then the sampler. 100 us in all, from `start`.
void add_step(std::vector<KernelRecord>& records, std::int64_t start, std::int64_t attention = 20'000) {
  for (int layer = 0; layer < 2; ++layer) {
    const std::int64_t at = start + layer * 45'000;
    add(records, "nvjet_tst_192x64_64x5_1x2_h_bz_coopB_TNN", at, at + 10'000);
    add(records, "void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>(...)", at + 10'000,
        at + 10'000 + attention);
    add(records, "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(...)", at + 32'000, at + 37'000);
  }
  add(records, "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, ArgMaxOps>>(...)", start + 95'000,
      start + 100'000);
}

std::string file_of(const std::string& text) {
  const std::string path = std::string(EVICTSIM_TEST_SCRATCH) + "/activity.csv";
  std::ofstream(path) << text;
  return path;
}

}  // namespace

TEST_CASE("kernels are told apart by their names") {
  const auto is = [](const char* name) { return classify_kernel(name); };
  CHECK(is("void cutlass::device_kernel<flash::FlashAttnFwdSm90<...>>") == KernelClass::attention);
  CHECK(is("_ZN5flash24flash_fwd_splitkv_kernelI23Flash_fwd_kernel_traits") == KernelClass::attention);
  CHECK(is("fmhaSm100fKernel_QkvBfloat16") == KernelClass::attention);
  CHECK(is("void vllm::paged_attention_v2_kernel<...>") == KernelClass::attention);
  CHECK(is("_ZN7cutlass13device_kernelIN5flash20enable_sm90_or_laterINS1_16FlashAttnFwdSm90I") ==
        KernelClass::attention);
  CHECK(is("_ZN10flashinfer33BatchDecodeWithPagedKVCacheKernelILNS_15PosEncodingModeE0E") == KernelClass::attention);
  CHECK(is("flashinfer::BatchPrefillWithRaggedKVCacheKernel") == KernelClass::attention);
  CHECK(is("SinglePrefillWithKVCacheKernel") == KernelClass::attention);
  CHECK(is("flashinfer::PersistentVariableLengthMergeStatesKernel") == KernelClass::attention);
  CHECK(is("_ZN10flashinfer4norm13RMSNormKernelILj8E13__nv_bfloat16EEvPT0_") == KernelClass::other);
  CHECK(is("flashinfer::sampling::TopKTopPSamplingFromProbKernel") == KernelClass::other);
  CHECK(is("flashinfer::AppendPagedKVCacheKernel") == KernelClass::other);
  CHECK(is("flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport") == KernelClass::collective);
  CHECK(is("void deep_ep::intranode::dispatch<8, 768, 4096>") == KernelClass::collective);
  CHECK(is("nvjet_sm100_tst_64x32_64x16_2x1_2cta") == KernelClass::gemm);
  CHECK(is("bmm_E4m3_E4m3E4m3_Fp32_t128x8x128u2_s8_et64x8") == KernelClass::gemm);
  CHECK(is("_fwd_grouped_kernel_stage1") == KernelClass::attention);
  CHECK(is("kernel_unified_attention_2d") == KernelClass::attention);
  CHECK(is("sm90_xmma_gemm_bf16bf16_bf16f32") == KernelClass::gemm);
  CHECK(is("ampere_bf16_s16816gemm_bf16_128x64") == KernelClass::gemm);
  CHECK(is("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816>") == KernelClass::gemm);
  CHECK(is("cublasLt::splitKreduce_kernel") == KernelClass::gemm);
  CHECK(is("ncclDevKernel_AllReduce_Sum_bf16_RING_LL") == KernelClass::collective);
  CHECK(is("void vllm::cross_device_reduce_2stage<...>") == KernelClass::collective);
  CHECK(is("void vllm::reshape_and_cache_flash_kernel<...>") == KernelClass::other);
  CHECK(is("triton_poi_fused_flash_attn_0") == KernelClass::other);
  CHECK(is("void vllm::rms_norm_kernel<...>") == KernelClass::other);
  CHECK(is("") == KernelClass::other);
}

TEST_CASE("steps are cut at pauses and their classes summed") {
  std::vector<KernelRecord> records;
  for (int step = 0; step < 5; ++step) add_step(records, 1'000'000 + step * 500'000, step == 4 ? 22'000 : 20'000);
  const models::EngineSteps steps = reduce_activity(records, {});
  CHECK(steps.steps == 5);
  CHECK(steps.span_seconds == Approx(100e-6));
  CHECK(steps.gemm_seconds == Approx(20e-6));
  CHECK(steps.attention_seconds == Approx(40e-6));
  CHECK(steps.collective_seconds == Approx(10e-6));
  CHECK(steps.other_seconds == Approx(5e-6));
  CHECK(steps.idle_seconds == Approx(25e-6));

  // The order of the records does not matter, nor do kernels of another device.
  std::reverse(records.begin(), records.end());
  add(records, "gemm", 1'050'000, 9'000'000, 1);
  CHECK(reduce_activity(records, {}).gemm_seconds == steps.gemm_seconds);
  CHECK(reduce_activity(records, {.skip = 4}).attention_seconds == Approx(44e-6));
}

TEST_CASE("steps are cut behind a kernel where an engine does not pause") {
  std::vector<KernelRecord> records;
  add(records, "gemm_of_a_step_before", 0, 5);
  for (int step = 0; step < 4; ++step) add_step(records, 1'000'000 + step * 100'000);
  add_step(records, 1'400'000);
  records.pop_back();  // never finished
  CHECK(reduce_activity(records, {}).steps == 1);
  const models::EngineSteps steps = reduce_activity(records, {.last_kernel = "ArgMaxOps", .skip = 1});
  CHECK(steps.steps == 3);
  CHECK(steps.span_seconds == Approx(100e-6));
  CHECK(steps.gemm_seconds == Approx(20e-6));
}

TEST_CASE("kernels that overlap count in their classes, and once in the span") {
  std::vector<KernelRecord> records;
  add(records, "gemm", 0, 100);
  add(records, "ncclDevKernel", 50, 150);
  add(records, "gemm", 60, 70);
  add(records, "norm", 200, 210);
  const models::EngineSteps steps = reduce_activity(records, {});
  CHECK(steps.span_seconds == Approx(210e-9));
  CHECK(steps.idle_seconds == Approx(50e-9));
  CHECK(steps.gemm_seconds == Approx(110e-9));
  CHECK(steps.collective_seconds == Approx(100e-9));
  CHECK(steps.other_seconds == Approx(10e-9));
}

TEST_CASE("activity that gives no step is refused") {
  CHECK_THROWS_WITH(reduce_activity({}, {}), Catch::Contains("no kernels"));
  std::vector<KernelRecord> single;
  add(single, "gemm", 0, 5);
  CHECK_THROWS_WITH(reduce_activity(single, {}), Catch::Contains("1 kernels of device 0 make 0 steps"));
  StepRule elsewhere;
  elsewhere.device = 3;
  CHECK_THROWS_WITH(reduce_activity(single, elsewhere),
                    Catch::Contains("activity-device = 3: ") && Catch::Contains("there are kernels of device 0"));
  std::vector<KernelRecord> backwards;
  add(backwards, "gemm", 10, 5);
  add(backwards, "gemm", 10, 15);
  CHECK_THROWS_AS(reduce_activity(backwards, {}), Error);
  std::vector<KernelRecord> records;
  add_step(records, 0);
  CHECK_THROWS_AS(reduce_activity(records, {.last_kernel = "no such kernel"}), Error);
  CHECK_THROWS_AS(reduce_activity(records, {.skip = 1}), Error);
  CHECK_THROWS_AS(reduce_activity(records, {.device = 1}), Error);
}

TEST_CASE("files of the collector are read, and damaged ones refused") {
  const std::string head = "device,start_ns,end_ns,name\n";
  const auto records = read_activity(file_of(head + "0,5,9,void f<1, 2>(int, float)\n3,7,7,g\n0,8,1"));
  REQUIRE(records.size() == 2);
  CHECK(records[0].name == "void f<1, 2>(int, float)");
  CHECK(records[0].start == 5);
  CHECK(records[0].end == 9);
  CHECK(records[1].device == 3);
  CHECK(read_activity(file_of(head)).empty());
  for (const char* line : {"0,5,4,f", "0,5,9,", "0,5,9", "0,5", "x,5,9,f", "0,-5,9,f", "-1,5,9,f", "0,5.5,9,f", "",
                           "0,99999999999999999999,9,f"}) {
    CAPTURE(line);
    CHECK_THROWS_WITH(read_activity(file_of(head + "0,1,2,f\n" + line + "\n")), Catch::Contains("line 3"));
  }
  for (const char* text : {"start,end\n", "", "device,start_ns,end_ns,name"}) {
    CHECK_THROWS_WITH(read_activity(file_of(text)), Catch::Contains("line 1: the first line must be"));
  }
  CHECK_THROWS_AS(read_activity("no such file"), Error);
  CHECK_THROWS_AS(read_activity(EVICTSIM_TEST_SCRATCH), Error);
}

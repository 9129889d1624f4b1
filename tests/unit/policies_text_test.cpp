// Does the text of a policy mean what its page says, and does a wrong one say what would be right?
#include <catch2/catch.hpp>

#include "policies/call.h"
#include "policies/composition.h"
#include "policies/policy.h"
#include "policies/registry.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::policies;
using Catch::Matchers::Contains;

namespace {

ErrorCode code_of(const std::string& text) {
  try {
    static_cast<void>(parse_policies(text));
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("no error for " << text);
  return ErrorCode::unsupported;
}

}  // namespace

TEST_CASE("calls nest, and words may be numbers, paths and quoted text") {
  const Call call = parse_call(" adakv( snapkv(window = 16), alpha=0.5, file=/a/b-c:/d, text='x, \\'y\\'' ) ");
  CHECK(call.name == "adakv");
  REQUIRE(call.arguments.size() == 4);
  CHECK(call.arguments[0].key.empty());
  CHECK(call.arguments[0].value.arguments[0].key == "window");
  CHECK(call.arguments[0].value.arguments[0].value.name == "16");
  CHECK(call.arguments[2].value.name == "/a/b-c:/d");
  CHECK(call.arguments[3].value.name == "x, 'y'");
  CHECK(call.arguments[3].value.quoted);
}

TEST_CASE("every policy expands to a composition that reads back as itself") {
  for (const Part* part : registered_parts()) {
    if (!part->is_policy) continue;
    const Policy policy = parse_policy(part->name);
    CHECK(policy.name == part->name);
    CHECK_THAT(policy.expansion, Catch::Matchers::StartsWith("compose("));
    CHECK(parse_policy(policy.expansion).expansion == policy.expansion);
  }
  for (const char* text :
       {"adakv(pyramidkv(variant=original,window=16,kernel=7,pool=max,beta=20,group=mean),variant=original,alpha=0.2)",
        "knorm(schedule=every(steps=4),protection=sinks(),protection=recent(count=8),budget=0.25)",
        "tova(schedule=once)", "adakv(caote(snapkv(window=16),gqa=mean_a))", "snapkv(window=32)@host(page=16)",
        "score: max(norm(v), 1) / norm(k)", "formula(expression=\"-norm(k)\",schedule=every(steps=8))@host",
        "kvpress:DecodingPress(AdaKVPress(KnormPress()),compression_interval=4,target_size=144)"}) {
    const Policy policy = parse_policy(text);
    CHECK(policy.name == text);
    const Policy again = parse_policy(policy.expansion);
    CHECK(again.expansion == policy.expansion);
    CHECK(again.fixed_budget == policy.fixed_budget);
  }
}

TEST_CASE("presets and wrappers expand as documented") {
  CHECK(parse_policy("full").expansion == "compose(allocator=uniform(),schedule=never())");
  CHECK(parse_policy("full").never_cuts());
  CHECK(parse_policy("knorm(schedule=never)").never_cuts());
  CHECK(parse_policy("adakv").expansion == parse_policy("adakv(snapkv())").expansion);
  CHECK(parse_policy("pyramid").expansion == parse_policy("pyramidkv").expansion);
  CHECK(parse_policy("adakv(pyramidkv(beta=5),alpha=0.5)").expansion ==
        "compose(scorer=snapkv(variant=library,window=64,kernel=5,pool=avg,group=mean),"
        "allocator=adakv(pyramid(variant=library,beta=5,window=64),variant=library,alpha=0.5,normalize=false),"
        "schedule=once())");
  CHECK(parse_policy("streaming_llm").expansion ==
        "compose(scorer=recency(),allocator=uniform(),schedule=every(steps=1,prompt=true,counted=decoded,phase=0),"
        "protection=sinks(count=4))");
  CHECK(parse_policy("h2o(variant=prefill,recent=16,group=max)").expansion ==
        "compose(scorer=accumulated_attention(recent=16,recent_share=0.5,cut=plain,group=max,normalise=none,"
        "accumulate=all,history=400,signal=probability,kernel=1,pool=avg),allocator=uniform(),schedule=once())");
  CHECK(parse_policy("squeezeattention(streaming_llm(sinks=2),p=0.3,positions=slot)").expansion ==
        "compose(scorer=recency(),allocator=cosine_clusters(uniform(),p=0.3),"
        "schedule=every(steps=1,prompt=true,counted=decoded,phase=0),protection=sinks(count=2),placement=rerotate())");
  CHECK_FALSE(parse_policy("squeezeattention").places());
  CHECK(
      parse_policy("knorm(allocator=adakv(alpha=0))").expansion ==
      "compose(scorer=key_norm(),allocator=adakv(uniform(),variant=library,alpha=0,normalize=false),schedule=once())");
}

TEST_CASE("needs follow the schedule") {
  CHECK(parse_policy("snapkv(window=16)").needs.window_queries == 16);
  CHECK_FALSE(parse_policy("snapkv").needs.decode_attention);
  CHECK(parse_policy("snapkv(schedule=every)").needs.decode_attention);
  CHECK(parse_policy("h2o").needs.all_queries);
  CHECK(parse_policy("h2o").needs.decode_attention);
  CHECK_FALSE(parse_policy("h2o(variant=prefill)").needs.decode_attention);
  CHECK_FALSE(parse_policy("knorm(schedule=every)").needs.decode_attention);
  CHECK(parse_policy("oracle_mass").is_oracle());
  CHECK(parse_policy("snapkv(group=none)").granularity == Granularity::query_head);
}

TEST_CASE("a wrong policy says what would be right") {
  CHECK_THROWS_WITH(parse_policy("snapvk"), Contains("snapkv"));
  CHECK(code_of("snapvk") == ErrorCode::unknown_name);
  CHECK_THROWS_WITH(parse_policy("snapkv(windw=3)"), Contains("windw") && Contains("did you mean window"));
  CHECK_THROWS_WITH(parse_policy("snapkv(window=0)"), Contains("snapkv: window = 0") && Contains("1 .. 65536"));
  CHECK_THROWS_WITH(parse_policy("snapkv(kernel=4)"), Contains("odd"));
  CHECK_THROWS_WITH(parse_policy("snapkv(pool=median)"), Contains("avg | max"));
  CHECK_THROWS_WITH(parse_policy("adakv(alpha=1.5)"), Contains("0 .. 1"));
  CHECK_THROWS_WITH(parse_policy("adakv(alpha=nan)"), Contains("0 .. 1"));
  CHECK_THROWS_WITH(parse_policy("keydiff(x=1)"), Contains("no parameters"));
  CHECK_THROWS_WITH(parse_policy("every(steps=2)"), Contains("schedule"));
  CHECK_THROWS_WITH(parse_policy("uniform()"), Contains("needs a policy"));
  CHECK_THROWS_WITH(parse_policy("pyramid(adakv(snapkv()))"), Contains("adakv(pyramid(...))"));
  CHECK_THROWS_WITH(parse_policy("oracle_mass(schedule=every)"), Contains("oracle"));
  CHECK_THROWS_WITH(parse_policy("compose(allocator=uniform())"), Contains("needs a scorer"));
  CHECK_THROWS_WITH(parse_policy("snapkv(64)"), Contains("name=value"));
  for (const char* text : {"squeezeattention(snapkv@host,positions=slot)", "adakv(snapkv@host,placement=disk())",
                           "snapkv(placement=host())@disk"}) {
    CHECK_THROWS_WITH(parse_policy(text), Contains("has a placement already"));
  }
  for (const char* text : {"", "  ", "snapkv(", "snapkv(window=)", "snapkv)", "snapkv(window=1,window=2)", "snapkv()x",
                           "'knorm'", "knorm(schedule=once,schedule=once)", "knorm(protection=knorm())",
                           "knorm(allocator=sinks())", "adakv(knorm(),knorm())", "knorm(budget=0)", "a,,b", "f(a,b",
                           "adakv(window=f(3))", "compose(scorer=snapkv(budget=3))", "uniform(uniform(snapkv(),4))"}) {
    INFO(text);
    CHECK((code_of(text) == ErrorCode::invalid_argument || code_of(text) == ErrorCode::unknown_name));
  }
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "adakv(";
  CHECK(code_of(deep + std::string(100000, ')')) == ErrorCode::invalid_argument);
}

TEST_CASE("suggestions are near and of the kind that fits") {
  CHECK_THROWS_WITH(parse_policy("snapvk"), Catch::Matchers::StartsWith("--policy = snapvk") &&
                                                Contains("no such policy; nearest: snapkv (") && !Contains("every"));
  CHECK_THROWS_WITH(parse_policy("tova(schedule=ever)"), Contains("no such schedule; nearest: every, never ("));
  CHECK_THROWS_WITH(parse_policy("tova(protection=snaps)"), Contains("no such protection; nearest: spans"));
  CHECK_THROWS_WITH(parse_policy("qqqqqqqq"), !Contains(", "));
  CHECK_THROWS_WITH(parse_policies("ALL"), Contains("nearest: all"));
  CHECK_THROWS_WITH(parse_policies(" "), Contains("--policy") && Contains("list is empty"));
  CHECK_THROWS_WITH(parse_policies("knorm,,tova"), Contains("--policy") && Contains("an item is empty"));
  std::string nested = "knorm()";
  for (int i = 0; i < 20; ++i) nested = "adakv(" + nested + ")";
  CHECK_THROWS_WITH(parse_policy(nested), Contains("nested too deep"));
}

TEST_CASE("lists split at their top level, and all is every policy once") {
  const auto policies = parse_policies("adakv(snapkv(window=8,kernel=3),alpha=0.3) , knorm,knorm");
  REQUIRE(policies.size() == 2);
  CHECK(policies[0].name == "adakv(snapkv(window=8,kernel=3),alpha=0.3)");
  CHECK(policies[1].name == "knorm");
  std::size_t count = 0;
  for (const Part* part : registered_parts()) count += part->is_policy ? 1 : 0;
  CHECK(parse_policies("all,knorm").size() == count);
}

TEST_CASE("presses map onto our parts with the library's names, order and defaults") {
  const auto same = [](const char* press, const char* policy) {
    INFO(press);
    CHECK(parse_policy(press).expansion == parse_policy(policy).expansion);
  };
  same("kvpress:SnapKVPress()", "snapkv");
  same("kvpress:SnapKVPress(window_size=16,kernel_size=7)", "snapkv(window=16,kernel=7)");
  same("kvpress:SnapKVPress(0.5, 16, 7)", "snapkv(window=16,kernel=7,budget=0.5)");
  same("kvpress:KnormPress(compression_ratio=0.9)", "knorm(budget=0.09999999999999998)");
  same("kvpress:TOVAPress()", "tova(variant=library)");
  same("kvpress:StreamingLLMPress(n_sink=8)", "streaming_llm(variant=library,sinks=8)");
  same("kvpress:ObservedAttentionPress(output_attentions=True)", "observed_attention");
  same("kvpress:LagKVPress(lag_size=32,cross_scoring=True)", "lagkv(lag=32,cross=true)");
  same("kvpress:ExpectedAttentionPress(use_vnorm=False,epsilon=1e-2)",
       "expected_attention(value_norm=false,epsilon=0.01)");
  same("kvpress:RandomPress(seed=None)", "random");
  same("kvpress:PyramidKVPress(window_size=16,kernel_size=7,beta=5)", "pyramidkv(window=16,kernel=7,beta=5)");
  same("kvpress:AdaKVPress(press=SnapKVPress(window_size=16),alpha_safeguard=0.5)",
       "adakv(snapkv(window=16),alpha=0.5)");
  same("kvpress:AdaKVPress(PyramidKVPress())", "adakv(snapkv())");
  same("kvpress:DecodingPress(base_press=KeyDiffPress(0.3),compression_interval=4,target_size=144)",
       "keydiff(schedule=every(steps=4,prompt=false),budget=144)");
  CHECK(parse_policy("kvpress:AdaKVPress(KnormPress(0.0))").fixed_budget->unlimited());

  same("kvpress:SnapKVPress(window_size=16, kernel_size=7,)", "snapkv(window=16,kernel=7)");
  same("kvpress:DecodingPress(KnormPress(), 1_6, target_size=2_048)",
       "knorm(schedule=every(steps=16,prompt=false),budget=2048)");

  CHECK(code_of("kvpress:KVgradPress()") == ErrorCode::unsupported);
  CHECK(code_of("kvpress:SnapKPress()") == ErrorCode::unknown_name);
  CHECK(code_of("kvpress:SnapKVPress(window=3)") == ErrorCode::unknown_name);
  CHECK(code_of("kvpress:SnapKVPress(0.1,2,3,4)") == ErrorCode::unknown_name);
  CHECK(code_of("kvpress:SnapKVPress(window_size=True)") == ErrorCode::invalid_argument);
  CHECK(code_of("kvpress:KnormPress(compression_ratio=1)") == ErrorCode::invalid_argument);
  CHECK(code_of("kvpress:AdaKVPress()") == ErrorCode::invalid_argument);
  CHECK(code_of("kvpress:AdaKVPress(AdaKVPress(KnormPress()))") == ErrorCode::invalid_argument);
  CHECK(code_of("kvpress:DecodingPress(PyramidKVPress())") == ErrorCode::unsupported);
  CHECK(code_of("kvpress:KnormPress") == ErrorCode::invalid_argument);
}

TEST_CASE("a wrong press is answered in the words of kvpress") {
  const auto says = [](const char* policy, const char* expected) {
    INFO(policy);
    CHECK_THROWS_WITH(parse_policy(policy), Contains(expected));
  };
  says("kvpress:SnapKVPress(window_size=0)", "SnapKVPress: window_size = 0: must be integer, 1 .. 65536");
  says("kvpress:PyramidKVPress(kernel_size=4)", "PyramidKVPress: kernel_size = 4: must be odd");
  says("kvpress:AdaKVPress(KnormPress(),alpha_safeguard=2)", "AdaKVPress: alpha_safeguard = 2: must be number, 0 .. 1");
  says("kvpress:AdaKVPress(KnormPress(1.5))", "KnormPress: compression_ratio = 1.5");
  says("kvpress:DecodingPress(KnormPress(),target_size=1)", "DecodingPress: target_size = 1");
  says("kvpress:DecodingPress(KnormPress(),compression_interval=0)", "DecodingPress: compression_interval = 0");
  says("kvpress:SnapKVPress(window=3)", "SnapKVPress: window: no such argument; did you mean window_size?");
  says("kvpress:AdaKVPress(KnormPress(),alpha=0.3)", "did you mean alpha_safeguard?");
  says("kvpress:SnapKVPress(1,2,3,4)", "too many arguments");
  says("kvpress:SnapKVPress(window_size=1__0)", "must be an integer");
  says("kvpress:SnapKPress", "nearest: SnapKVPress");
  says("kvpress:SnapKVPress", "written as a call: SnapKVPress()");
  says("SnapKVPress()", "write kvpress:SnapKVPress()");
  says("kvpress.SnapKVPress(0.5)", "write kvpress:SnapKVPress(...)");
  says("adakv(kvpress:SnapKVPress())", "kvpress: stands outside");
  says("adakv(SnapKVPress())", "kvpress: stands outside");
  says("snapkv(window=16,)", "a name or value expected");
}

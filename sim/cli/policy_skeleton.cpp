#include "sim/cli/policy_skeleton.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "policies/call.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim {
namespace {

// $NAME is the policy's name, $CLASS the same as a class; $include keeps this file's own includes apart.

constexpr const char* scorer_source = R"text($include "policies/registry.h"
$include "policies/scoring.h"

namespace evictsim::policies {
namespace {

/// What it keeps, and why.
class $CLASS : public Scorer {
 public:
  explicit $CLASS(const Parameters& parameters) : order_(parameters.integer("order")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    for (int head = 0; head < cache.heads(); ++head) {
      const models::MatrixView values = cache.values(head);
      for (Index i = 0; i < values.rows(); ++i) {
        const auto value = values.row(i).cast<double>();
        const double norm = order_ == 1 ? value.cwiseAbs().sum() : value.norm();
        scores.of(head)[static_cast<std::size_t>(i)] = static_cast<float>(norm);  // higher = keep
      }
    }
  }

  // What it reads besides keys and values goes into needs(), see policies/needs.h.

 private:
  std::int64_t order_;
};

const Registration registration(
    {.name = "$NAME",
     .sentence = "Keeps the values of largest norm.",
     .citation = "ours",
     .parameters = {integer_parameter("order", "2", 1, 2, "of the norm")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<$CLASS>(parameters); }),
     .is_policy = true});

}  // namespace
}  // namespace evictsim::policies
)text";

constexpr const char* scorer_test = R"text(// Does $NAME score as its formula says?
$include <catch2/catch.hpp>
$include <cmath>

$include "policies/policy.h"
$include "tests/support/cache_double.h"

using namespace evictsim::policies;

TEST_CASE("$NAME scores entries by the norm of their values") {
  const evictsim::tests::CacheDouble cache({.query_heads = 4, .kv_heads = 2});
  LayerScores scores(cache);
  parse_policy("$NAME(order=1)").make_scorer()->score(cache, {}, scores);
  for (int head = 0; head < cache.heads(); ++head) {
    const auto& values = cache.all_values[static_cast<std::size_t>(head)];
    for (std::size_t i = 0; i < cache.entries(head).size(); ++i) {
      double norm = 0;
      for (int d = 0; d < 8; ++d) norm += std::abs(static_cast<double>(values(cache.entries(head)[i], d)));
      CHECK(scores.of(head)[i] == Approx(norm));
    }
  }
}
)text";

constexpr const char* allocator_source = R"text($include <algorithm>

$include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// How it splits the budget, and why.
class $CLASS : public Allocator {
 public:
  explicit $CLASS(const Parameters& parameters) : first_layer_(parameters.real("first_layer")) {}

  void allocate(const AllocationRequest& request, std::span<Index> counts) const override {
    // The mean over layers is the budget. The engine limits counts to the entries that a head has.
    const double depth = request.num_layers > 1 ? static_cast<double>(request.layer) / (request.num_layers - 1) : 0.5;
    const double share = first_layer_ + (2 - 2 * first_layer_) * depth;
    const auto count = static_cast<Index>(share * static_cast<double>(request.budget.entries));
    std::fill(counts.begin(), counts.end(), std::max<Index>(count, 1));
  }

 private:
  double first_layer_;
};

const Registration registration(
    {.name = "$NAME",
     .sentence = "Gives layers a share of the budget that changes linearly with their depth.",
     .citation = "ours",
     .parameters = {real_parameter("first_layer", "1.5", 0, 2, "the first layer's entries over the budget's")},
     .make = MakeAllocator([](const Parameters& parameters) { return std::make_unique<$CLASS>(parameters); }),
     .is_policy = true,
     .default_policy = "snapkv()"});

}  // namespace
}  // namespace evictsim::policies
)text";

constexpr const char* allocator_test = R"text(// Does $NAME split the budget as its formula says?
$include <catch2/catch.hpp>
$include <vector>

$include "policies/policy.h"

using namespace evictsim::policies;

TEST_CASE("$NAME changes counts linearly with depth") {
  const Policy policy = parse_policy("$NAME(knorm(),first_layer=1.5)");
  std::vector<Index> by_layer;
  for (int layer = 0; layer < 3; ++layer) {
    std::vector<Index> counts(2);
    AllocationRequest request;
    request.budget.entries = 8;
    request.layer = layer;
    request.num_layers = 3;
    policy.allocator->allocate(request, counts);
    CHECK(counts[0] == counts[1]);
    by_layer.push_back(counts[0]);
  }
  CHECK(by_layer == std::vector<Index>{12, 8, 4});
}
)text";

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
  throw Error(ErrorCode::invalid_argument, what, {.parameter = "NAME", .value = name});
}

void refuse_bad_name(const std::string& name) {
  const bool plain = !name.empty() && name.front() >= 'a' && name.front() <= 'z' &&
                     name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos;
  if (!plain) refuse(name, "a policy's name is lower-case letters, digits and _, and starts with a letter");
  if (name == policies::compose_name || name == "all" || policies::is_composition_key(name)) {
    refuse(name, "has a meaning of its own where policies are named");
  }
  for (const policies::Part* part : policies::registered_parts()) {
    if (part->name == name) refuse(name, fmt::format("is taken, by the {} \"{}\"", part->kind(), part->sentence));
  }
}

/// "my_policy" as "MyPolicy".
std::string class_name(const std::string& name) {
  std::string result;
  bool starts = true;
  for (const char character : name) {
    if (character != '_') {
      result += starts ? static_cast<char>(std::toupper(static_cast<unsigned char>(character))) : character;
    }
    starts = character == '_';
  }
  return result;
}

std::string filled_in(std::string text, const std::string& name) {
  const auto replace = [&text](const std::string& mark, const std::string& by) {
    for (std::size_t at = text.find(mark); at != std::string::npos; at = text.find(mark, at + by.size())) {
      text.replace(at, mark.size(), by);
    }
  };
  replace("$include", "#include");
  replace("$NAME", name);
  replace("$CLASS", class_name(name));
  return text;
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::error_code failure;
  std::filesystem::create_directories(path.parent_path(), failure);
  std::ofstream stream(path, std::ios::binary);
  stream << text;
  stream.close();
  if (!stream) {
    throw Error(ErrorCode::io_failure, "cannot be written: " + std::generic_category().message(errno),
                {.file = path.string()});
  }
}

}  // namespace

PolicySkeleton write_policy_skeleton(SkeletonKind kind, const std::string& name,
                                     const std::filesystem::path& directory) {
  refuse_bad_name(name);
  const bool scorer = kind == SkeletonKind::scorer;
  const std::string folder = scorer ? "scorers" : "allocators";
  const PolicySkeleton skeleton{
      .source = directory / "policies" / folder / (name + ".cpp"),
      .test = directory / "tests" / "unit" / fmt::format("policies_{}_test.cpp", name),
      .lines_to_add = {
          fmt::format("policies/CMakeLists.txt, among SOURCES:  {}/{}.cpp", folder, name),
          fmt::format("tests/unit/CMakeLists.txt:  evictsim_add_test(NAME policies_{0} LABELS unit SOURCES "
                      "policies_{0}_test.cpp LIBS evictsim::policies)",
                      name)}};
  for (const std::filesystem::path& path : {skeleton.source, skeleton.test}) {
    if (std::filesystem::exists(path)) {
      throw Error(ErrorCode::invalid_argument, "exists and is left as it is; choose another name",
                  {.file = path.string()});
    }
  }
  write(skeleton.source, filled_in(scorer ? scorer_source : allocator_source, name));
  write(skeleton.test, filled_in(scorer ? scorer_test : allocator_test, name));
  return skeleton;
}

}  // namespace evictsim

// Does `evictsim policies` explain and start policies, and do formulas and plug-ins work from the command line?
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>

#include "policies/plugin.h"
#include "policies/registry.h"
#include "tests/cli/program.h"
#include "traces/hdf5_handle.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

/// A plug-in that this build made.
std::string plugin(const std::string& name) { return std::string(EVICTSIM_PLUGIN_DIR) + "/lib" + name + ".so"; }

std::string refused(const std::filesystem::path& folder, const Arguments& arguments) {
  const Outcome outcome = run(folder, arguments);
  CHECK(outcome.status == 1);
  CHECK(outcome.out.empty());
  return outcome.err;
}

}  // namespace

TEST_CASE("the grammar names what policies are written with") {
  const Outcome outcome = run(scratch("grammar"), {"policies", "--grammar"});
  REQUIRE(outcome.status == 0);
  for (const char* text :
       {"adakv(snapkv(window=32),alpha=0.3)", "caote(", "@host(page=16)", "score: ", "formula(",
        "weights=", "infokv(schedule=rpc)", "--plugin", "evictsim policies new", "kvpress:SnapKVPress"}) {
    CHECK_THAT(outcome.out, Contains(text));
  }
}

TEST_CASE("every registered part is explained") {
  const std::filesystem::path folder = scratch("explain");
  const Outcome parts = run(folder, {"policies", "--parts"});
  for (const char* name : {"formula", "information", "quest", "every"}) {
    CHECK_THAT(parts.out, Contains(" " + std::string(name) + " "));
    CHECK_THAT(run(folder, {"policies", name}).out, StartsWith(std::string(name) + ": "));
  }
  const Outcome formula = run(folder, {"policies", "score: max(norm(projected)) + entropy"});
  CHECK_THAT(formula.out, Contains("W_O, the channel entropy") && Contains("formula(expression='max(norm(projected))"));
}

TEST_CASE("a formula is replayed under its own text, and run.h5 keeps its expansion") {
  const std::filesystem::path folder = scratch("formula");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::string csv = (folder / "run.csv").string();
  const std::string output = (folder / "run.h5").string();
  const std::string dump = (folder / "kept.h5").string();
  const std::string text = "score: mean(attention, window=32) / norm(v)";
  const Outcome outcome = run(folder, {"replay", trace, "--policy", text + ",score: -norm(k), knorm", "--budget",
                                       "0.25", "--csv", csv, "-o", output, "--dump", dump});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].at("policy") == text);
  CHECK(rows[1].at("policy") == "score: -norm(k)");
  for (const char* column : {"output_error", "retained_mass", "regret"})
    CHECK(rows[1].at(column) == rows[2].at(column));
  CHECK_THAT(contents(output), Contains("formula(expression='mean(attention, window=32) / norm(v)',group=mean)"));
  const evictsim::traces::hdf5::Guard guard;
  const auto root = evictsim::traces::hdf5::Node::open_file(dump, std::filesystem::file_size(dump));
  CHECK_NOTHROW(root.group("score: mean(attention, window=32) | norm(v)"));
}

TEST_CASE("an error in a formula points at its place") {
  const std::filesystem::path folder = scratch("caret");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::string error = refused(folder, {"replay", trace, "--policy", "score: 2 * nrom(k)"});
  CHECK(error ==
        "error: formula = 2 * nrom(k): character 5: no such feature or function 'nrom'; nearest: norm\n"
        "2 * nrom(k)\n"
        "    ^\n");
  // Parentheses that do not match are the formula's, though policies stand in a list with commas.
  const std::string unclosed = refused(folder, {"replay", trace, "--policy", "knorm,score: max(norm(k), norm(v)"});
  CHECK_THAT(unclosed, Contains("character 21: ") && Contains("\nmax(norm(k), norm(v)\n                    ^\n"));
  const std::string unopened = refused(folder, {"replay", trace, "--policy", "score: norm(k)),knorm"});
  CHECK_THAT(unopened, Contains("character 8: ')' does not belong here\nnorm(k)),knorm\n       ^\n"));
  CHECK_THAT(refused(folder, {"replay", trace, "--policy", "score:,knorm"}), Contains("a formula must follow"));
}

TEST_CASE("a formula that gives no number is an error row, and the sweep goes on") {
  const std::filesystem::path folder = scratch("not-finite");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::string csv = (folder / "run.csv").string();
  const Outcome outcome =
      run(folder, {"replay", trace, "--policy", "score: log(age),knorm", "--budget", "0.25", "--csv", csv});
  CHECK(outcome.status == 1);
  CHECK_THAT(outcome.err, Contains("score: log(age)") && Contains("finite"));
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].at("status") != "ok");
  CHECK(rows[1].at("status") == "ok");
}

TEST_CASE("a plug-in's policy is one like the others") {
  const std::filesystem::path folder = scratch("plugin");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::string csv = (folder / "run.csv").string();
  CHECK_THAT(run(folder, {"policies", "--plugin", plugin("value_norm")}).out, Contains("value_norm"));
  CHECK_THAT(run(folder, {"policies", "value_norm", "--plugin", plugin("value_norm")}).out,
             Contains("compose(scorer=value_norm(power=1),"));
  const Outcome outcome =
      run(folder, {"replay", trace, "--plugin", plugin("value_norm"), "--plugin", plugin("value_norm"), "--policy",
                   "adakv(value_norm(power=0.5)),score: norm(v) ^ 0.5,value_norm(power=0.5)", "--budget", "0.25",
                   "--csv", csv});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 3);
  CHECK(rows[1].at("output_error") == rows[2].at("output_error"));
  CHECK(rows[0].at("policy") == "adakv(value_norm(power=0.5))");
  CHECK_THAT(refused(folder, {"replay", trace, "--policy", "value_norm"}), Contains("no such policy"));
}

TEST_CASE("a plug-in's faults are rows that name it, and the sweep goes on") {
  const std::filesystem::path folder = scratch("faulty");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 1}).string();
  const std::string csv = (folder / "run.csv").string();
  const Outcome outcome = run(folder, {"replay", trace, "--plugin", plugin("faulty"), "--policy",
                                       "faulty_throws,faulty_error,faulty_nan,faulty_few,faulty_entry,knorm",
                                       "--budget", "0.25", "--csv", csv});
  CHECK(outcome.status == 1);
  for (const char* why :
       {"faulty_throws", "the plug-in gave up", "faulty_error", "the plug-in says what is wrong", "faulty_nan",
        "finite", "faulty_few", "every cache head", "faulty_entry", "an entry that the head does not have"}) {
    CHECK_THAT(outcome.err, Contains(why));
  }
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 6);
  for (const auto& row : rows) {
    INFO(row.at("policy"));
    CHECK((row.at("status") == "ok") == (row.at("policy") == "knorm"));
    CHECK(row.at("output_error").empty() == (row.at("policy") != "knorm"));
  }
}

TEST_CASE("what is no plug-in of this version is refused before its code runs") {
  const std::filesystem::path folder = scratch("refused");
  const auto error = [&](const std::string& file) { return refused(folder, {"policies", "--plugin", file}); };
  CHECK_THAT(error(plugin("other_version")), Contains("was built for evictsim 0.0.9") &&
                                                 Contains("this program takes evictsim ") &&
                                                 Contains("build it again"));
  CHECK_THAT(error(plugin("no_plugin")), Contains("EVICTSIM_PLUGIN"));
  CHECK_THAT(error(plugin("taken_name")), Contains("'snapkv' is registered twice"));
  CHECK_THAT(error((folder / "none.so").string()), Contains("none.so") && Contains("No such file"));
  CHECK_THAT(error(folder.string()), Contains("regular file"));
  const std::string whole = contents(plugin("value_norm"));
  std::ofstream(folder / "cut.so", std::ios::binary) << whole.substr(0, whole.size() / 2);
  CHECK_THAT(error((folder / "cut.so").string()), Contains("whole shared object"));
  std::ofstream(folder / "text.so") << EVICTSIM_PLUGIN_MARK;
  CHECK_THAT(error((folder / "text.so").string()), Contains("is no plug-in"));
}

TEST_CASE("a new policy's files are written once, under a name that is free") {
  const std::filesystem::path folder = scratch("new");
  const Outcome outcome = run(folder, {"policies", "new", "my_policy", "--directory", folder.string()});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.out, Contains("scorers/my_policy.cpp") && Contains("policies_my_policy_test.cpp") &&
                              Contains("policies/CMakeLists.txt") && Contains("tests/unit/CMakeLists.txt"));
  const std::filesystem::path source = folder / "policies" / "scorers" / "my_policy.cpp";
  CHECK_THAT(contents(source), Contains(".name = \"my_policy\"") && Contains("class MyPolicy") && !Contains("$"));
  CHECK_THAT(contents(folder / "tests" / "unit" / "policies_my_policy_test.cpp"), StartsWith("// Does my_policy"));
  std::ofstream(source) << "mine";
  CHECK_THAT(refused(folder, {"policies", "new", "my_policy", "--directory", folder.string()}), Contains("exists"));
  CHECK(contents(source) == "mine");
  CHECK(run(folder, {"policies", "new", "my_budget", "--allocator", "--directory", folder.string()}).status == 0);
  CHECK(std::filesystem::exists(folder / "policies" / "allocators" / "my_budget.cpp"));
  for (const char* name : {"My", "a-b", "../x", "1st", "", "all", "compose", "budget", "snapkv", "uniform"}) {
    INFO(name);
    CHECK_THAT(refused(folder, {"policies", "new", name, "--directory", folder.string()}), Contains("NAME"));
  }
  CHECK(run(folder, {"policies", "new"}).status == 2);
}

// Does `evictsim trace merge` put captures of ranks together, and say in one line and by its exit status what it
// cannot?
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>

#include "tests/cli/program.h"
#include "tests/support/small_trace.h"
#include "traces/merge.h"
#include "traces/reader.h"

using namespace evictsim;
using namespace evictsim::tests;
namespace fs = std::filesystem;

namespace {

/// A slice of the trace with one of its two KV heads, which says so as a rank does.
std::string write_rank(const fs::path& folder, int rank) {
  const std::string path = (folder / ("rank" + std::to_string(rank) + ".h5")).string();
  REQUIRE(run(folder, {"trace", "slice", (folder / "whole.h5").string(), "-o", path, "--heads", std::to_string(rank)})
              .status == 0);
  traces::test::edit_file(path, [rank](hid_t file) {
    traces::test::set_integer(file, ".", traces::first_query_head_attribute, 2 * rank);
    traces::test::set_integer(file, ".", traces::first_kv_head_attribute, rank);
    traces::test::set_integer(file, ".", traces::all_query_heads_attribute, 4);
    traces::test::set_integer(file, ".", traces::all_kv_heads_attribute, 2);
    traces::test::set_text(file, "/sequences/000000", "request_id", "one");
    traces::test::set_text(file, "/sequences/000001", "request_id", "two");
  });
  return path;
}

}  // namespace

TEST_CASE("merge undoes a split by heads") {
  const fs::path folder = scratch("merge");
  write_trace(folder / "whole.h5");
  const std::string first = write_rank(folder, 0), second = write_rank(folder, 1);
  const std::string merged = (folder / "merged.h5").string();
  const Outcome outcome = run(folder, {"trace", "merge", second, first, "-o", merged});
  CHECK(outcome.status == 0);
  CHECK(outcome.err.empty());
  CHECK_THAT(outcome.out, Catch::Contains("2 sequences"));
  CHECK(run(folder, {"trace", "verify", merged}).status == 0);
  const traces::Reader whole(folder / "whole.h5"), found(merged);
  for (const int layer : whole.header().layers) {
    CHECK(found.read_layer(1, layer).q == whole.read_layer(1, layer).q);
    CHECK(found.read_layer(1, layer).k == whole.read_layer(1, layer).k);
  }
}

TEST_CASE("merge refuses what does not fit") {
  const fs::path folder = scratch("refused");
  write_trace(folder / "whole.h5");
  const std::string first = write_rank(folder, 0), second = write_rank(folder, 1);
  const std::string merged = (folder / "merged.h5").string();
  CHECK(run(folder, {"trace", "merge", "-o", merged}).status == 2);
  CHECK(run(folder, {"trace", "merge", first, second}).status == 2);
  const Outcome part = run(folder, {"trace", "merge", first, "-o", merged});
  CHECK(part.status == 1);
  CHECK(lines_in(part.err) == 1);
  CHECK_THAT(part.err, Catch::Contains("2 of 4 query heads"));

  traces::test::edit_file(second,
                          [](hid_t file) { traces::test::set_text(file, "/sequences/000001", "request_id", "other"); });
  CHECK(run(folder, {"trace", "merge", first, second, "-o", merged}).status == 1);
  CHECK_FALSE(fs::exists(merged));
  const Outcome rest = run(folder, {"trace", "merge", first, second, "-o", merged, "--complete-only"});
  CHECK(rest.status == 0);
  CHECK_THAT(rest.out,
             Catch::Contains("left out other") && Catch::Contains("left out two") && Catch::Contains("1 sequence,"));
}

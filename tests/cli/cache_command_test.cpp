// Does `evictsim cache` print and write hit ratios, and refuse bad input in one line?
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/cli/program.h"

using namespace evictsim::tests;
using Catch::Matchers::Contains;

namespace {

std::string write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
  return path.string();
}

/// 1 2 3 1 2 3 4 1 2 3
const char* const references = "0,1,4\n0,2,4\n0,3,4\n1,1,4\n1,2,4\n1,3,4\n2,4,8\n3,1,4\n3,2,4\n3,3,4\n";

void check_refused(const std::filesystem::path& folder, const Arguments& arguments, int status,
                   const std::string& what) {
  const Outcome outcome = run(folder, arguments);
  INFO(outcome.err);
  CHECK(outcome.status == status);
  CHECK(outcome.out.empty());
  CHECK(lines_in(outcome.err) == 1);
  CHECK_THAT(outcome.err, Contains(what));
}

}  // namespace

TEST_CASE("a matrix of policies and sizes") {
  const std::filesystem::path folder = scratch("matrix");
  const std::string trace = write(folder / "loop.csv", references);
  const std::string csv = (folder / "cache.csv").string();
  const Outcome outcome =
      run(folder, {"cache", trace, "--policy", "lru,belady,clock(bits=2)", "--size", "2,3", "--csv", csv});
  INFO(outcome.err);
  REQUIRE(outcome.status == 0);
  CHECK_THAT(outcome.out, Contains("10 references, 4 objects") && Contains("clock(bits=2)"));
  CHECK(contents(csv).rfind("trace,policy,size,references,hits,hit_ratio\n", 0) == 0);
  const auto rows = read_csv(csv);
  REQUIRE(rows.size() == 6);
  CHECK(rows[0].at("trace") == "loop.csv");
  CHECK(rows[0].at("policy") == "lru");
  CHECK(rows[0].at("size") == "2");
  CHECK(rows[0].at("references") == "10");
  CHECK(rows[0].at("hits") == "0");
  CHECK(rows[0].at("hit_ratio") == "0");
  CHECK(rows[1].at("hits") == "3");
  CHECK(rows[1].at("hit_ratio") == "0.3");
  CHECK(rows[3].at("policy") == "belady");
  CHECK(rows[3].at("hits") == "5");
}

TEST_CASE("sizes in bytes, samples, several traces") {
  const std::filesystem::path folder = scratch("bytes");
  const std::string trace = write(folder / "loop.csv", references);
  const std::string csv = (folder / "cache.csv").string();
  REQUIRE(run(folder, {"cache", trace, "-p", "lru", "-s", "12,20", "--unit", "bytes", "--csv", csv, "-q"}).status == 0);
  CHECK(read_csv(csv)[0].at("hits") == "3");
  CHECK(read_csv(csv)[1].at("hits") == "6");
  const Outcome sampled =
      run(folder, {"cache", trace, trace, "-p", "lru,fifo", "-s", "3", "--sample", "1", "--csv", csv});
  REQUIRE(sampled.status == 0);
  REQUIRE(read_csv(csv).size() == 4);
  CHECK(read_csv(csv)[0].at("hit_ratio") == "0.3");
  CHECK(read_csv(csv)[0].at("hit_ratio_error") == "0");
  CHECK_THAT(sampled.out, Contains("+-"));
}

TEST_CASE("block by block or prompt by prompt") {
  const std::filesystem::path folder = scratch("lookup");
  const std::string trace = write(folder / "requests.jsonl", "{\"hash_ids\":[1,1]}\n{\"hash_ids\":[1]}\n");
  CHECK_THAT(run(folder, {"cache", trace, "-p", "lru", "-s", "1"}).out, Contains("0.3333"));
  CHECK_THAT(run(folder, {"cache", trace, "-p", "lru", "-s", "1", "--lookup", "block"}).out, Contains("0.6667"));
}

TEST_CASE("policies are explained") {
  const Outcome outcome = run(scratch("list"), {"cache", "--list"});
  CHECK(outcome.status == 0);
  CHECK_THAT(outcome.out, Contains("s3fifo") && Contains("threshold = 2") && Contains("SOSP 2023"));
}

TEST_CASE("bad input is one line") {
  const std::filesystem::path folder = scratch("refused");
  const std::string trace = write(folder / "loop.csv", references);
  check_refused(folder, {"cache", trace, "-p", "lurk", "-s", "3"}, 1, "did you mean lru");
  check_refused(folder, {"cache", trace, "-p", "lru", "-s", "3,0"}, 1, "--size = 0");
  check_refused(folder, {"cache", trace, "-p", "lru", "-s", "-3"}, 1, "--size = -3");
  check_refused(folder, {"cache", trace, "-p", "lru", "-s", "1k"}, 1, "--size = 1k");
  check_refused(folder, {"cache", trace, "-p", "lru", "-s", "3", "--sample", "0"}, 1, "sample");
  check_refused(folder, {"cache", trace, "-p", "lru", "-s", "3", "--format", "cvs"}, 1, "csv");
  check_refused(folder, {"cache", trace, "-p", "lru", "-s", "3", "--csv", trace}, 1, "overwrite");
  check_refused(folder, {"cache", (folder / "no.csv").string(), "-p", "lru", "-s", "3"}, 1, "no.csv");
  check_refused(folder, {"cache", write(folder / "back.csv", "2,1\n1,1\n"), "-p", "lru", "-s", "3"}, 1, "line 2");
  check_refused(folder, {"cache", write(folder / "short.bin", "0123456789"), "-p", "lru", "-s", "3"}, 1, "record 1");
  check_refused(folder, {"cache", trace, "-p", "lru"}, 2, "--size");
  check_refused(folder, {"cache", "-p", "lru", "-s", "3"}, 2, "TRACE");
  check_refused(folder, {"cache", trace, "-p", "lru", "-s", "3", "--unit", "pages"}, 2, "--unit");
}

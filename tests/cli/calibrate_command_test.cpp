// Do `evictsim calibrate` and predicted damage in `evictsim replay` keep their promises from end to end: files, ranks,
// errors, determinism?
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/cli/program.h"

using namespace evictsim::tests;

namespace {

const char* const policies = "knorm,random,streaming_llm,snapkv(window=8,kernel=3),window";

/// truth.csv for replays of a trace's rows: KL is what the first layer's errors say, times a factor of the text.
/// `with_errors`: whether the file holds errors of layers; without, they must be replayed.
std::filesystem::path write_truth(const std::filesystem::path& folder, const std::string& trace, int texts) {
  const std::filesystem::path path = folder / "truth.csv";
  const std::filesystem::path csv = folder / "run.csv";
  REQUIRE(run(folder, {"replay", trace, "--policy", policies, "--budget", "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8", "--csv",
                       csv.string(), "-q"})
              .status == 0);
  std::ofstream stream(path);
  stream << "model,text,trace,sequence,policy,budget,rows,kl\n";
  int written = 0;
  for (const auto& row : read_csv(csv)) {
    const int sequence = std::stoi(row.at("sequence"));
    if (sequence >= texts) continue;
    const double kl = std::stod(row.at("squared_error")) * 1e-3 * (1 + 0.2 * (written++ % 3));
    stream << "made/up,text" << sequence << ",elsewhere/" << std::filesystem::path(trace).filename().string() << ','
           << row.at("sequence") << ",\"" << row.at("policy") << "\"," << row.at("budget") << ",10," << kl << '\n';
  }
  return path;
}

}  // namespace

TEST_CASE("a calibration made from replayed traces predicts, with bands, and ranks") {
  const std::filesystem::path folder = scratch("calibrate");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 6}).string();
  const std::string truth = write_truth(folder, trace, 6).string();
  const std::string output = (folder / "model.cal.json").string();
  std::vector<std::string> files;
  for (const char* threads : {"1", "3"}) {
    const Outcome made = run(folder, {"calibrate", truth, trace, "-o", output, "--threads", threads});
    CHECK(made.err.empty());
    REQUIRE(made.status == 0);
    CHECK(made.out.find("made/up: 240 points of 6 texts, in 6 folds") == 0);
    CHECK(made.out.find("fitted weights, linear law, held out") != std::string::npos);
    CHECK(made.out.find("Band at 90 %") != std::string::npos);
    CHECK(made.out.find("Wrote " + output) != std::string::npos);
    files.push_back(contents(output));
  }
  CHECK(files[0] == files[1]);

  const std::string csv = (folder / "run.csv").string();
  std::vector<std::string> tables;
  for (const char* threads : {"1", "2", "4"}) {
    const Outcome ranked = run(folder, {"replay", trace, "--policy", policies, "--budget", "0.2,1", "--calibration",
                                        output, "--rank", "--threads", threads, "--csv", csv});
    CHECK(ranked.err.empty());
    REQUIRE(ranked.status == 0);
    tables.push_back(ranked.out + contents(csv));
  }
  CHECK(tables[0] == tables[1]);
  CHECK(tables[0] == tables[2]);
  CHECK(tables[0].find("budget 0.2, by predicted KL in nats:") != std::string::npos);
  CHECK(tables[0].find("Bands hold for 90 % of points") != std::string::npos);
  CHECK(tables[0].find("\n~ ") != std::string::npos);
  for (const auto& row : read_csv(csv)) {
    const double predicted = std::stod(row.at("predicted_kl"));
    if (row.at("budget") == "1") {
      CHECK(predicted == 0);
      continue;
    }
    // The law of this made-up truth, within the fit's error.
    const double truth_kl = std::stod(row.at("squared_error")) * 1e-3 * 1.2;
    CHECK(predicted == Approx(truth_kl).epsilon(0.3));
    CHECK(std::stod(row.at("predicted_kl_low")) < predicted);
    CHECK(std::stod(row.at("predicted_kl_high")) > predicted);
    CHECK(row.at("damage_index_kind") == "squared_error");
    CHECK(row.at("damage_index") == row.at("squared_error"));
  }
  // A calibration of another model predicts nothing, and says so.
  const std::string renamed = (folder / "renamed.cal.json").string();
  REQUIRE(run(folder, {"calibrate", truth, trace, "-o", renamed, "--model", "other", "-q"}).status == 0);
  const Outcome unfit =
      run(folder, {"replay", trace, "--policy", "knorm", "--budget", "0.2", "--calibration", renamed, "--csv", csv});
  CHECK(unfit.status == 0);
  CHECK(unfit.err.find("the calibration is of other, the trace of made/up") != std::string::npos);
  CHECK(read_csv(csv).front().at("predicted_kl").empty());
  // Half of the layers: what these alone would do, without a band.
  REQUIRE(run(folder, {"replay", trace, "--policy", "knorm", "--budget", "0.2", "--layers", "2", "--calibration",
                       output, "--csv", csv, "-q"})
              .status == 0);
  const auto part = read_csv(csv).front();
  CHECK(part.at("prediction_status").find("partial: 1 of 2 layers") == 0);
  CHECK(part.at("predicted_kl_low").empty());
  CHECK_FALSE(part.at("predicted_kl").empty());
}

TEST_CASE("without weights a replay ranks by an index, and says that no damage is predicted") {
  const std::filesystem::path folder = scratch("rank_index");
  const std::string trace = write_trace(folder / "trace.h5").string();
  const std::string csv = (folder / "run.csv").string();
  const Outcome ranked =
      run(folder, {"replay", trace, "--policy", policies, "--budget", "0.2", "--rank", "--csv", csv});
  REQUIRE(ranked.status == 0);
  CHECK(ranked.out.find("by damage index (squared_error), which has no unit") != std::string::npos);
  CHECK(ranked.out.find("No bands") != std::string::npos);
  for (const auto& row : read_csv(csv)) {
    CHECK(row.at("predicted_kl").empty());
    CHECK(row.at("prediction_status") == "none: neither /model/sensitivity nor --calibration");
  }
  const std::string bare = write_trace(folder / "bare.h5", {.with_projection = false}).string();
  const Outcome nothing = run(folder, {"replay", bare, "--policy", "knorm", "--budget", "0.2", "--rank"});
  REQUIRE(nothing.status == 0);
  CHECK(nothing.out.find("not ranked, nothing to rank them by: knorm") != std::string::npos);
}

TEST_CASE("bad input to calibrate and to calibrated replays is one line that says what would be right") {
  const std::filesystem::path folder = scratch("calibrate_wrong");
  const std::string trace = write_trace(folder / "trace.h5", {.sequences = 6}).string();
  const std::string truth = write_truth(folder, trace, 6).string();
  const std::string output = (folder / "model.cal.json").string();
  const auto refused = [&](const Arguments& arguments, int status, const std::string& what) {
    const Outcome outcome = run(folder, arguments);
    CHECK(outcome.status == status);
    CHECK(lines_in(outcome.err) == 1);
    INFO(outcome.err);
    CHECK(outcome.err.find(what) != std::string::npos);
    CHECK_FALSE(std::filesystem::exists(output));
  };
  refused({"calibrate", truth, "-o", output}, 1, "m_000");  // no errors of layers, and no traces to replay
  refused({"calibrate", truth, trace, "-o", output, "--weights", "sensitivity"}, 1, "/model/sensitivity");
  refused({"calibrate", truth, trace, "-o", truth}, 1, "would overwrite");
  refused({"calibrate", (folder / "none.csv").string(), "-o", output}, 1, "No such file");
  refused({"calibrate", truth}, 2, "--output");
  refused({"calibrate", truth, "-o", output, "--law", "cubic"}, 2, "cubic");
  refused({"calibrate", truth, "-o", output, "--coverage", "1.5"}, 2, "coverage");
  refused({"calibrate", truth, "-o", output, "--folds", "1"}, 2, "folds");
  const std::string one = write_truth(folder, trace, 1).string();
  refused({"calibrate", one, trace, "-o", output}, 1, "one text");
  const std::string other = write_trace(folder / "other.h5").string();
  refused({"calibrate", one, other, "-o", output}, 1, "no trace given has sequence");
  refused({"replay", trace, "--policy", "knorm", "--coverage", "0.8"}, 1, "--calibration");
  refused({"replay", trace, "--policy", "knorm", "--calibration", truth}, 1,
          "is not JSON from line 1, column 1 on; `evictsim calibrate` writes");
  std::string twice = contents(truth);
  twice += twice.substr(twice.rfind('\n', twice.size() - 2) + 1);
  const std::size_t last = lines_in(twice);
  const std::filesystem::path doubled = folder / "doubled.csv";
  std::ofstream(doubled) << twice;
  refused({"calibrate", doubled.string(), trace, "-o", output}, 1, "line " + std::to_string(last) + ": ");
}

#pragma once
// A run file's contents without the file, for tests of reports.

#include <random>
#include <string>

#include "analysis/run_file_reader.h"

namespace evictsim::analysis {

/// Three policies, an oracle and the full cache at three budgets over `sequences` sequences of 100 tokens, random
/// errors.
inline RunContents made_up_run(unsigned seed, int sequences) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> error(0.01, 1);
  RunContents run;
  run.path = "made-up/run.h5";
  run.provenance.inputs = {{"trace.h5", "aa", "some/model"}};
  run.provenance.complete = true;
  run.policies = {{"snapkv", "compose(scorer=snapkv(window=64),allocator=uniform(),schedule=once())", "ok"},
                  {"tova", "compose(scorer=last_attention(),allocator=uniform(),schedule=once())", "ok"},
                  {"keeper", "compose(scorer=recency(),allocator=uniform(),schedule=once())", "ok"},
                  {"best", "compose(scorer=oracle_mass(),allocator=uniform(),schedule=once())", "ok"},
                  {"full", "compose(allocator=uniform(),schedule=never())", "ok"},
                  {"kvzip", "compose()", "skipped in 2 of 2 sequences: needs more"}};
  for (int sequence = 0; sequence < sequences; ++sequence) {
    for (const char* budget : {"0.5", "0.1", "20"}) {
      for (const char* policy : {"snapkv", "tova", "keeper", "best", "full"}) {
        RunRow row;
        row.trace = "trace.h5";
        row.sequence = std::to_string(sequence);
        row.policy = policy;
        row.budget = budget;
        row.prompt_length = 100;
        row.layers = 2;
        row.decode_rows = 10;
        const double share = row.budget == "20" ? 0.2 : std::stod(row.budget);
        const bool keeps_all = row.policy == "keeper" || row.policy == "full";
        row[Metric::kept_bytes] = keeps_all ? 1000 : 1000 * share;
        row[Metric::output_error] = row.policy == "full" ? 0 : error(generator);
        row[Metric::retained_mass] = 1 - row[Metric::output_error] / 2;
        row[Metric::output_error_low] = row[Metric::output_error] * 0.9;
        row[Metric::output_error_high] = row[Metric::output_error] * 1.1;
        run.rows.push_back(row);
        run.full_bytes.push_back(1000);
      }
    }
  }
  return run;
}

}  // namespace evictsim::analysis

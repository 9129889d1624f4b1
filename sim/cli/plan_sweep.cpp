#include "sim/cli/plan_sweep.h"

#include <tbb/global_control.h>
#include <tbb/info.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>

#include "traces/error.h"

namespace evictsim {
namespace {

using analysis::PlanAnswer;
using analysis::PlanCase;

class Sweep {
 public:
  Sweep(const std::vector<PlanCase>& cases, const PlanSweep& sweep)
      : cases_(cases), sweep_(sweep), answers_(cases.size()) {}

  bool run() {
    const int threads = sweep_.threads > 0 ? sweep_.threads : tbb::info::default_concurrency();
    // As many threads as asked for, also where there are fewer cores.
    const tbb::global_control limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads));
    tbb::task_arena arena(threads);
    arena.execute([&] {
      tbb::task_group workers;
      const std::size_t count = std::min(cases_.size(), static_cast<std::size_t>(threads));
      for (std::size_t worker = 0; worker < count; ++worker) workers.run([this] { work(); });
      workers.wait();
    });
    if (failure_) std::rethrow_exception(failure_);
    for (std::size_t index = next_row_; index < answers_.size(); ++index) give_out(index);
    return !stopped();
  }

 private:
  [[nodiscard]] bool stopped() const { return sweep_.stop != nullptr && sweep_.stop->load(); }

  /// Takes one case after the other, in order.
  void work() {
    while (!stopped() && !failed_) {
      const std::size_t index = next_case_++;
      if (index >= cases_.size()) return;
      try {
        finish(index, answer(index));
      } catch (const Error& problem) {
        if (problem.code() == ErrorCode::interrupted) return;
        fail();
      } catch (...) {
        fail();
      }
    }
  }

  PlanAnswer answer(std::size_t index) {
    const PlanCase& plan = cases_[index];
    analysis::PlanHooks hooks;
    hooks.before_run = [&](sim::ServingOptions& options) {
      if (sweep_.before_run) sweep_.before_run(index, options);
    };
    hooks.searching = [&](const std::string& tried) {
      const std::lock_guard lock(mutex_);
      if (sweep_.searching) sweep_.searching(tried);
    };
    if (cases_.size() == 1) return analysis::answer(plan, hooks);
    try {
      return analysis::answer(plan, hooks);
    } catch (const Error& problem) {
      if (problem.code() == ErrorCode::interrupted) throw;
      PlanAnswer failed;
      failed.row = analysis::settings_of(plan);
      failed.row.status = problem.what();
      return failed;
    }
  }

  void finish(std::size_t index, PlanAnswer&& answer) {
    const std::lock_guard lock(mutex_);
    answers_[index] = std::move(answer);
    ++finished_;
    while (next_row_ < answers_.size() && answers_[next_row_]) give_out(next_row_++);
    if (sweep_.progress) sweep_.progress(finished_);
  }

  void give_out(std::size_t index) {
    if (answers_[index] && sweep_.row) sweep_.row(index, *answers_[index]);
    answers_[index].reset();
  }

  void fail() {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
    failed_ = true;
  }

  const std::vector<PlanCase>& cases_;
  const PlanSweep& sweep_;
  std::mutex mutex_;
  std::atomic<std::size_t> next_case_ = 0;
  std::atomic<bool> failed_ = false;
  std::vector<std::optional<PlanAnswer>> answers_;
  std::size_t next_row_ = 0, finished_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

bool run_sweep(const std::vector<PlanCase>& cases, const PlanSweep& sweep) { return Sweep(cases, sweep).run(); }

}  // namespace evictsim

#pragma once
/// \file
/// How the engine walks layers and calls policies: stops on request, failures that stay with their policy.

#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#include <tbb/partitioner.h>
#include <tbb/task_arena.h>

#include <atomic>
#include <cstddef>
#include <exception>
#include <new>

#include "traces/error.h"

namespace evictsim::sim {

/// Throws Error(interrupted) once a stop was asked for.
inline void check_stop(const std::atomic<bool>& stop) {
  if (stop) throw Error(ErrorCode::interrupted, "stopped on request; finished rows are kept");
}

/// Runs a step of a policy. What it throws goes to `failed(why)`, so that other policies go on; a stop and want of
/// memory are no failure of the policy.
template <typename Step, typename Failed>
void run_step(const Step& step, const Failed& failed) {
  try {
    step();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::interrupted) throw;
    failed(error.what());
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    failed(error.what());
  }
}

/// Calls `task(slot)` for 0 .. layers - 1, at most one layer per thread at a time.
template <typename Task>
void for_each_layer(std::size_t layers, const Task& task) {
  tbb::parallel_for(
      tbb::blocked_range<std::size_t>(0, layers, 1),
      [&](const tbb::blocked_range<std::size_t>& range) {
        for (std::size_t slot = range.begin(); slot < range.end(); ++slot) {
          // Isolated: a thread that waits for a layer's heads must not start another layer, or the number of layers
          // in memory would not be bounded by the number of threads.
          tbb::this_task_arena::isolate([&] { task(slot); });
        }
      },
      tbb::simple_partitioner());
}

}  // namespace evictsim::sim

#include "traces/capture/probe/probe_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "models/gpu.h"
#include "traces/capture/probe/activity.h"
#include "traces/capture/probe/probe_plan.h"
#include "traces/error.h"

namespace evictsim::traces::capture {
namespace {

struct Arguments {
  std::string output, base, name, activity;
  int device = 0;
  bool quick = false, no_device = false;
  StepRule steps;
  double gap_microseconds = 200;
};

/// What a probe cannot measure: from the description that was asked for, else from one that lists the device.
std::optional<models::Gpu> base_of(const Arguments& arguments, ProbeDevice& device) {
  if (!arguments.base.empty()) return models::find_gpu(arguments.base);
  return models::find_gpu_of_device(device.facts().name);
}

void report(const models::Gpu& gpu) {
  std::cout << fmt::format("{}: {:.1f} GiB, reads {:.0f} GB/s\n", gpu.product,
                           static_cast<double>(gpu.visible_bytes.value_or(gpu.memory_bytes)) / std::exp2(30),
                           gpu.memory_bytes_per_second / 1e9);
  const auto transfer = [](const char* name, const std::optional<models::TransferRate>& rate) {
    if (!rate) return;
    std::cout << fmt::format("{}: {:.2f} GB/s", name, rate->bytes_per_second / 1e9);
    if (rate->latency_seconds) std::cout << fmt::format(", latency {:.1f} us", *rate->latency_seconds * 1e6);
    std::cout << '\n';
  };
  transfer("host to device, pinned", gpu.host_to_device);
  transfer("device to host, pinned", gpu.device_to_host);
  transfer("host to device, pageable", gpu.host_to_device_pageable);
  transfer("device to host, pageable", gpu.device_to_host_pageable);
  transfer("to the slowest peer", gpu.peer);
  if (const auto& rate = gpu.decode_attention) {
    std::cout << fmt::format(
        "decode attention: {:.1f} us + {:.3f} ns per entry + {:.3f} ns per page + {:.3f} ns per entry "
        "of the longest head; fit within {:.0f} %\n",
        rate->launch_seconds * 1e6, rate->seconds_per_entry * 1e9, rate->seconds_per_page * 1e9,
        rate->seconds_per_longest_entry * 1e9, rate->largest_relative_error.value_or(0) * 100);
  }
  if (const auto& steps = gpu.engine_steps) {
    std::cout << fmt::format(
        "{} engine step{} of {:.3f} ms: attention {:.3f}, GEMM {:.3f}, collectives {:.3f}, other "
        "{:.3f}, idle {:.3f}\n",
        steps->steps, steps->steps == 1 ? "" : "s", steps->span_seconds * 1e3, steps->attention_seconds * 1e3,
        steps->gemm_seconds * 1e3, steps->collective_seconds * 1e3, steps->other_seconds * 1e3,
        steps->idle_seconds * 1e3);
  }
}

void run(Arguments arguments) {
  // Before minutes of measuring: what the activity says and whether it can be used.
  std::optional<models::EngineSteps> steps;
  if (!arguments.activity.empty()) {
    arguments.steps.gap = std::llround(arguments.gap_microseconds * 1e3);
    const std::vector<KernelRecord> kernels = read_activity(arguments.activity);
    try {
      steps = reduce_activity(kernels, arguments.steps);
    } catch (const Error& error) {
      ErrorContext where = error.context();
      where.file = arguments.activity;
      throw Error(error.code(), error.message(), where);
    }
  }
  models::Gpu gpu;
  if (arguments.no_device) {
    gpu = models::find_gpu(arguments.base);
  } else {
    const auto device = open_probe_device(arguments.device);
    const bool terminal = isatty(STDERR_FILENO) != 0;
    gpu = probe(*device, arguments.quick ? quick_plan() : ProbePlan(), base_of(arguments, *device),
                "evictsim-capture " EVICTSIM_VERSION, [&](const std::string& next) {
                  if (terminal) std::cerr << "measuring: " << next << '\n';
                });
  }
  if (!arguments.name.empty()) gpu.name = arguments.name;
  if (steps) {
    gpu.engine_steps = steps;
    gpu.sources.push_back("engine_steps: reduced from recorded activity by evictsim-capture " EVICTSIM_VERSION);
  }
  models::write_gpu(arguments.output, gpu);
  report(gpu);
}

}  // namespace

void add_probe_command(CLI::App& app) {
  auto* command = app.add_subcommand("probe", "Measures a GPU and writes its description, a file that planning reads");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("-o,--output", arguments->output, "description to write")->required();
  auto* device = command->add_option("--device", arguments->device, "number of the CUDA device")->capture_default_str();
  auto* base = command->add_option("--base", arguments->base,
                                   "description (name or file) that gives what is not measured: arithmetic rates");
  command->add_option("--name", arguments->name, "name in the description, else made from the device's");
  auto* quick = command->add_flag("--quick", arguments->quick, "few and small cases: seconds instead of minutes");
  command->add_flag("--no-device", arguments->no_device, "measure nothing: add an engine's activity to --base")
      ->needs(base)
      ->excludes(device)
      ->excludes(quick);
  auto* activity = command->add_option("--activity", arguments->activity,
                                       "kernels of an engine, recorded by libevictsim_activity.so");
  command->add_option("--activity-device", arguments->steps.device, "device whose kernels count")
      ->capture_default_str()
      ->needs(activity);
  auto* last = command
                   ->add_option("--step-end", arguments->steps.last_kernel,
                                "a step ends with the kernel whose name contains this text")
                   ->needs(activity);
  command->add_option("--step-gap", arguments->gap_microseconds, "else, with a pause of so many microseconds")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 1e9))
      ->needs(activity)
      ->excludes(last);
  command->add_option("--skip-steps", arguments->steps.skip, "leading steps that do not count")
      ->capture_default_str()
      ->needs(activity);
  command->callback([arguments] { run(*arguments); });
}

}  // namespace evictsim::traces::capture

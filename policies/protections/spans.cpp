#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

class Spans : public Protection {
 public:
  explicit Spans(const Parameters& parameters) : kind_(parameters.choice("kind")) {}
  void protect(const CacheView& cache, LayerScores& scores) const override { protect_spans(cache, kind_, scores); }

 private:
  std::string kind_;
};

const Registration registration(
    {.name = "spans",
     .sentence = "Protects the annotated token ranges of one kind; a sequence without such ranges has none.",
     .citation = "the spans of the trace format, docs/trace-format.md",
     .parameters = {choice_parameter("kind", {traces::span_kinds.begin(), traces::span_kinds.end()}, "kind of span")},
     .make = MakeProtection([](const Parameters& parameters) { return std::make_unique<Spans>(parameters); })});

}  // namespace
}  // namespace evictsim::policies

#include <algorithm>
#include <cmath>
#include <vector>

#include "policies/press.h"
#include "policies/random_matrix.h"
#include "policies/registry.h"
#include "policies/scoring.h"

namespace evictsim::policies {
namespace {

constexpr Index projected_width = 20;

/// Approximate leverage of keys and values: squared norms, relative to those around.
class Cur : public Scorer {
 public:
  explicit Cur(const Parameters& parameters)
      : leverage_(parameters.choice("leverage")),
        local_(parameters.boolean("local")),
        block_(parameters.integer("block")),
        projected_(parameters.boolean("projected")),
        sinks_(parameters.integer("sinks")) {}

  void score(const CacheView& cache, const CutBudget&, LayerScores& scores) override {
    const models::MatrixDouble projection = projected_ ? draw_projection(cache) : models::MatrixDouble();
    for (int head = 0; head < cache.heads(); ++head) {
      const std::vector<double> keys = squared_norms(cache.keys(head), projection);
      const std::vector<double> values = squared_norms(cache.values(head), projection);
      std::vector<double> row(keys.size());
      double total = 0;
      for (std::size_t i = 0; i < row.size(); ++i) {
        row[i] = combined(keys[i], values[i]);
        total += row[i];
      }
      for (std::size_t i = 0; i < row.size(); ++i) {
        scores.of(head)[i] = static_cast<float>(total > 0 ? row[i] / total : 0.0);
      }
      const Index sinks = count_before(cache.entries(head), sinks_);
      std::fill_n(scores.of(head).begin(), sinks, 1.0F);
    }
  }

 private:
  /// One random projection for keys and values of all heads: [d, 20].
  static models::MatrixDouble draw_projection(const CacheView& cache) {
    std::mt19937_64 generator = cache.generator(0);
    return normal_matrix(generator, cache.geometry().head_dim, projected_width) /
           std::sqrt(static_cast<double>(projected_width));
  }

  [[nodiscard]] std::vector<double> squared_norms(const models::MatrixView& rows,
                                                  const models::MatrixDouble& projection) const {
    std::vector<double> norms(static_cast<std::size_t>(rows.rows()));
    for (Index i = 0; i < rows.rows(); ++i) {
      const Eigen::RowVectorXd row = rows.row(i).cast<double>();
      norms[static_cast<std::size_t>(i)] = projected_ ? (row * projection).squaredNorm() : row.squaredNorm();
    }
    if (!local_) return norms;
    for (std::size_t first = 0; first < norms.size(); first += static_cast<std::size_t>(block_)) {
      const auto block =
          std::span(norms).subspan(first, std::min(static_cast<std::size_t>(block_), norms.size() - first));
      double total = 0;
      for (const double norm : block) total += norm;
      for (double& norm : block) norm = total > 0 ? norm / total : 0.0;
    }
    return norms;
  }

  [[nodiscard]] double combined(double key, double value) const {
    if (leverage_ == "key") return key;
    if (leverage_ == "value") return value;
    return leverage_ == "mean" ? (key + value) / 2 : key * value;
  }

  std::string leverage_;
  bool local_;
  Index block_;
  bool projected_;
  Index sinks_;
};

const Registration registration(
    {.name = "cur",
     .sentence = "Keeps entries whose key and value are long compared with those around them.",
     .citation = "CurDKV, arXiv 2509.15038; kvpress 0.5.5 CURPress",
     .parameters = {choice_parameter("leverage", {"product", "key", "value", "mean"},
                                     "how the shares of key and value become one"),
                    boolean_parameter("local", "true", "divide by the sum of the block before that"),
                    integer_parameter("block", "16", 1, 1e9, "entries of a block"),
                    boolean_parameter("projected", "false", "first project keys and values to 20 random directions"),
                    integer_parameter("sinks", "4", 0, 1e9, "first tokens, which score 1")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<Cur>(parameters); }),
     .is_policy = true});

std::string leverage_of(const PressArguments& given) {
  const std::string& type = given["leverage_type"];
  if (type == "kv_product") return "product";
  return type == "kv_avg" ? "mean" : type;
}

const PressRegistration press({.name = "CURPress",
                               .part = "cur",
                               .arguments = {compression_ratio_argument,
                                             {"num_sinks", PressValue::integer, "4", "sinks"},
                                             {"leverage_type", PressValue::text, "kv_product"},
                                             {"use_random_leverage", PressValue::boolean, "False"},
                                             {"use_local_approximation", PressValue::boolean, "True"},
                                             {"local_window_size", PressValue::integer, "16", "block"}},
                               .map = [](const PressArguments& given) -> PolicyText {
                                 return {.name = "cur",
                                         .arguments = {"leverage=" + leverage_of(given),
                                                       "local=" + given["use_local_approximation"],
                                                       "block=" + given["local_window_size"],
                                                       "projected=" + given["use_random_leverage"],
                                                       "sinks=" + given["num_sinks"]}};
                               }});

}  // namespace
}  // namespace evictsim::policies

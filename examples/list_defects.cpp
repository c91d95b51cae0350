// Copyright (C) 2026 destseg-anomalib contributors
// SPDX-License-Identifier: Apache-2.0

// The defects of a picture, as anomalib's `predict` lists them, from an exported model without Python:
//   g++ -std=c++17 -O2 list_defects.cpp -o list_defects $(pkg-config --cflags --libs opencv4 openvino)
//   ./list_defects model.xml picture.png [min_area]
// model.onnx serves as well. The verdict goes to the error output, the list, in pixels of the picture, to the other.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <vector>

#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <openvino/openvino.hpp>

int main(int argc, char** argv) {
    if (argc < 3) return std::cerr << "usage: list_defects model.xml picture.png [min_area]\n", 2;
    const int min_area = argc > 3 ? std::stoi(argv[3]) : 1;  // pixels of the map, as in the model's OperatingPoint
    const cv::Mat picture = cv::imread(argv[2], cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION);
    if (picture.empty()) return std::cerr << argv[2] << " does not exist or is no picture that OpenCV reads.\n", 1;

    // float32, since a processor with bfloat16 units would compute in these, and scores would be other ones.
    ov::Core core;
    ov::CompiledModel model = core.compile_model(argv[1], "CPU", ov::hint::inference_precision(ov::element::f32));
    ov::InferRequest request = model.create_infer_request();

    // 1 x 3 x height x width, red first, in [0, 1]; the model resizes it itself.
    ov::Tensor input(ov::element::f32, {1, 3, size_t(picture.rows), size_t(picture.cols)});
    std::vector<cv::Mat> planes;
    for (int plane : {2, 1, 0})  // OpenCV has blue first
        planes.emplace_back(picture.size(), CV_32F, input.data<float>() + plane * picture.total());
    cv::Mat scaled;
    picture.convertTo(scaled, CV_32F, 1 / 255.);
    cv::split(scaled, planes);
    request.set_input_tensor(input);
    request.infer();

    const ov::Tensor scores = request.get_tensor("anomaly_map"), predicted = request.get_tensor("pred_mask");
    const ov::Shape shape = scores.get_shape();
    const int height = int(shape[shape.size() - 2]), width = int(shape[shape.size() - 1]);
    const cv::Mat map(height, width, CV_32F, const_cast<float*>(scores.data<const float>()));
    const cv::Mat mask(height, width, CV_8U, const_cast<void*>(static_cast<const void*>(predicted.data())));
    std::cerr << "score " << request.get_tensor("pred_score").data<float>()[0] << ", "
              << (request.get_tensor("pred_label").data<bool>()[0] ? "anomalous" : "normal") << "\n";

    cv::Mat labels, boxes, centres;
    const int count = cv::connectedComponentsWithStats(mask, labels, boxes, centres, 8);
    const double right = double(picture.cols) / width, down = double(picture.rows) / height;
    std::vector<std::pair<double, int>> order;  // 0 is what is not predicted
    std::vector<double> means(count);
    for (int label = 1; label < count; ++label) {
        double highest;
        cv::minMaxLoc(map, nullptr, &highest, nullptr, nullptr, labels == label);
        means[label] = cv::mean(map, labels == label)[0];
        if (boxes.at<int>(label, cv::CC_STAT_AREA) >= min_area) order.emplace_back(-highest, label);
    }
    std::sort(order.begin(), order.end());
    std::cout << "left,top,width,height,centre_x,centre_y,area,highest_score,mean_score\n";
    for (const auto& [lowest, label] : order) {
        const int* box = boxes.ptr<int>(label);
        const long x = std::lrint(box[0] * right), y = std::lrint(box[1] * down);
        const long end_x = std::lrint((box[0] + box[2]) * right), end_y = std::lrint((box[1] + box[3]) * down);
        const double centre_x = (centres.at<double>(label, 0) + .5) * right - .5;
        const double centre_y = (centres.at<double>(label, 1) + .5) * down - .5;
        std::cout << x << ',' << y << ',' << std::max(end_x - x, 1L) << ',' << std::max(end_y - y, 1L) << ','
                  << std::round(centre_x * 10) / 10 << ',' << std::round(centre_y * 10) / 10 << ','
                  << std::lrint(box[4] * right * down) << ',' << -lowest << ',' << means[label] << "\n";
    }
}
